//! The macros of the crate.

/// Makes a component of a type: exports `lifecycle` and the interfaces named,
/// each of which is a trait the type implements. Once a crate, which is a
/// `cdylib`.
///
/// The names are `RequestFilter`, `ResponseFilter`, `FrameFilter`, `Transcoder`,
/// `Timer`, `Comparison` and, with the feature `http`, `Function`.
///
/// ```
/// # use sluice_sdk::prelude::*;
/// # struct Hello;
/// # impl Plugin for Hello {
/// #     type Config = ();
/// #     fn new(_: ()) -> Result<Self, ConfigError> { Ok(Self) }
/// #     fn interest(&self) -> Interest { Interest::new() }
/// # }
/// # impl RequestFilter for Hello {}
/// # impl Timer for Hello { fn tick(&mut self) -> Result<(), String> { Ok(()) } }
/// sluice_sdk::export!(Hello: RequestFilter, Timer);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export {
    ($plugin:ty : $($interface:ident),+ $(,)?) => {
        // Natively nothing is exported, yet a trait that is missing is an error.
        const _: () = {
            const fn implements<P: $crate::Plugin $(+ $crate::$interface)+>() {}
            implements::<$plugin>();
        };
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }
            impl $crate::glue::Component for Component {
                type Plugin = $plugin;
                fn slot() -> &'static ::std::thread::LocalKey<::std::cell::RefCell<::std::option::Option<$plugin>>> {
                    &INSTANCE
                }
            }
            $crate::__export_interface!(Lifecycle);
            $($crate::__export_interface!($interface);)+
        };
    };
}

/// One interface of `Component`, in scope where it is called.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_interface {
    (Lifecycle) => {
        $crate::glue::export_lifecycle!(Component with_types_in $crate::glue::lifecycle);
    };
    (RequestFilter) => {
        $crate::glue::export_request_filter!(Component with_types_in $crate::glue::request_filter);
    };
    (ResponseFilter) => {
        $crate::glue::export_response_filter!(Component with_types_in $crate::glue::response_filter);
    };
    (FrameFilter) => {
        $crate::glue::export_frame_filter!(Component with_types_in $crate::glue::frame_filter);
    };
    (Transcoder) => {
        $crate::glue::export_transcoder!(Component with_types_in $crate::glue::transcoder);
    };
    (Timer) => {
        $crate::glue::export_timer!(Component with_types_in $crate::glue::timer);
    };
    (Comparison) => {
        $crate::glue::export_comparison!(Component with_types_in $crate::glue::comparison);
    };
    (Function) => {
        type Handler = $crate::glue::Handler<Component>;
        $crate::glue::wasi::http::proxy::export!(Handler with_types_in $crate::glue::wasi);
    };
}

/// Writes a line of the level `error` to the node's log, formatted as by `format!`.
#[macro_export]
macro_rules! error {
    ($($argument:tt)+) => { $crate::__log!(Error, $($argument)+) };
}

/// Writes a line of the level `warn` to the node's log, formatted as by `format!`.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)+) => { $crate::__log!(Warn, $($argument)+) };
}

/// Writes a line of the level `info` to the node's log, formatted as by `format!`.
#[macro_export]
macro_rules! info {
    ($($argument:tt)+) => { $crate::__log!(Info, $($argument)+) };
}

/// Writes a line of the level `debug` to the node's log, formatted as by `format!`.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)+) => { $crate::__log!(Debug, $($argument)+) };
}

/// Writes a line of the level `trace` to the node's log, formatted as by `format!`.
#[macro_export]
macro_rules! trace {
    ($($argument:tt)+) => { $crate::__log!(Trace, $($argument)+) };
}

/// A line of a level, formatted only when it is written.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    ($level:ident, $($argument:tt)+) => {
        if $crate::log::enabled($crate::log::Level::$level) {
            $crate::log::write($crate::log::Level::$level, &::std::format!($($argument)+));
        }
    };
}
