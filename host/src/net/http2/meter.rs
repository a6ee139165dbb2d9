//! Notices floods of HTTP/2 frames that cost the sender nothing.
//!
//! The `h2` crate bounds what a connection may make it remember. What it does
//! not bound is work: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and
//! unknown frames cost a peer a few bytes each and us an answer or a wake-up
//! each. A [`Meter`] reads the nine-byte frame heads of the inbound bytes as
//! they pass and keeps one budget a frame kind, refilled by what an honest peer
//! earns: time, streams opened and bytes it was sent. Reads no socket and no
//! clock.

use std::time::{Duration, Instant};

/// Bytes of the connection preface a client sends first, RFC 9113 §3.4.
const PREFACE_BYTES: usize = 24;
/// Bytes of a frame's head, RFC 9113 §4.1.
const HEAD_BYTES: usize = 9;

/// Budgets of one connection. A frame over its budget ends the connection with
/// GOAWAY `ENHANCE_YOUR_CALM`.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterLimits {
    /// PING, SETTINGS and unknown frames: burst. Default 200.
    pub control_burst: u32,
    /// PING, SETTINGS and unknown frames a second after the burst. Default 50.
    pub control_per_second: u32,
    /// RST_STREAM: burst. Default 300.
    pub reset_burst: u32,
    /// RST_STREAM a second after the burst. Default 100.
    pub reset_per_second: u32,
    /// PRIORITY frames: burst; each stream opened earns 2 more. Default 200.
    pub priority_burst: u32,
    /// WINDOW_UPDATE: burst; each stream opened earns 8 more, and each KiB the
    /// peer was sent earns one. Default 2,000.
    pub window_burst: u32,
    /// CONTINUATION frames in a row. Default 64.
    pub continuation_frames_max: u32,
    /// Bytes of one header block over HEADERS and CONTINUATION. Default 64 KiB.
    pub header_block_bytes_max: u32,
    /// Empty DATA frames that do not end a stream: burst; each second earns 10. Default 100.
    pub empty_data_burst: u32,
}

impl Default for MeterLimits {
    fn default() -> Self {
        Self {
            control_burst: 200,
            control_per_second: 50,
            reset_burst: 300,
            reset_per_second: 100,
            priority_burst: 200,
            window_burst: 2_000,
            continuation_frames_max: 64,
            header_block_bytes_max: 64 * 1024,
            empty_data_burst: 100,
        }
    }
}

/// Which flood was noticed; the name is stable in logs and counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flood {
    /// PING, SETTINGS or unknown frames.
    Control,
    /// RST_STREAM frames.
    Reset,
    /// PRIORITY frames.
    Priority,
    /// WINDOW_UPDATE frames.
    Window,
    /// CONTINUATION frames, or a header block without end.
    Continuation,
    /// DATA frames that carry nothing.
    EmptyData,
    /// No flood, but a frame whose length its type forbids (RFC 9113 §4.2).
    FrameSize,
    /// No flood, but a connection that does not begin with SETTINGS (§3.4).
    NoSettings,
}

impl std::fmt::Display for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Flood {}

impl Flood {
    /// The reason code.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Control => "h2_control_flood",
            Self::Reset => "h2_reset_flood",
            Self::Priority => "h2_priority_flood",
            Self::Window => "h2_window_flood",
            Self::Continuation => "h2_continuation_flood",
            Self::EmptyData => "h2_empty_data_flood",
            Self::FrameSize => "h2_frame_size",
            Self::NoSettings => "h2_no_settings",
        }
    }
}

/// Counts the frames of one connection against its budgets.
#[derive(Debug)]
pub struct Meter {
    limits: MeterLimits,
    /// Payload (and preface) bytes to pass over before the next frame head.
    skip: usize,
    head: [u8; HEAD_BYTES],
    head_len: usize,
    refilled: Instant,
    control: f32,
    reset: f32,
    empty_data: f32,
    priority: u32,
    window: u32,
    sent_bytes: u64,
    continuation_frames: u32,
    header_block_bytes: u32,
    /// The first frame has come, and was SETTINGS.
    has_begun: bool,
}

impl Meter {
    /// A meter for a connection whose preface has not been read yet.
    #[must_use]
    pub fn new(limits: MeterLimits, now: Instant) -> Self {
        Self {
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_len: 0,
            refilled: now,
            control: limits.control_burst as f32,
            reset: limits.reset_burst as f32,
            empty_data: limits.empty_data_burst as f32,
            priority: limits.priority_burst,
            window: limits.window_burst,
            sent_bytes: 0,
            continuation_frames: 0,
            header_block_bytes: 0,
            has_begun: false,
            limits,
        }
    }

    /// A meter for a connection to a server, which sends no preface.
    #[must_use]
    pub fn for_client(limits: MeterLimits, now: Instant) -> Self {
        Self { skip: 0, ..Self::new(limits, now) }
    }

    /// Counts bytes sent to the peer, which earn it WINDOW_UPDATE frames.
    pub fn sent(&mut self, count: usize) {
        let before = self.sent_bytes / 1024;
        self.sent_bytes += count as u64;
        let earned = u32::try_from(self.sent_bytes / 1024 - before).unwrap_or(u32::MAX);
        self.window = self.window.saturating_add(earned);
    }

    /// Counts the frames in `bytes`, the next ones of the connection.
    ///
    /// # Errors
    /// The flood that used its budget up, or what is wrong with a frame's head.
    pub fn received(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        self.refill(now);
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = self.skip.min(bytes.len());
                self.skip -= count;
                bytes = &bytes[count..];
                continue;
            }
            let count = (HEAD_BYTES - self.head_len).min(bytes.len());
            self.head[self.head_len..self.head_len + count].copy_from_slice(&bytes[..count]);
            self.head_len += count;
            bytes = &bytes[count..];
            if self.head_len == HEAD_BYTES {
                self.head_len = 0;
                self.frame()?;
            }
        }
        Ok(())
    }

    fn frame(&mut self) -> Result<(), Flood> {
        let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
        let (kind, flags) = (self.head[3], self.head[4]);
        self.skip = length as usize;
        if !self.has_begun && (kind, flags & 0x1) != (0x4, 0) {
            return Err(Flood::NoSettings);
        }
        self.has_begun = true;
        let is_sound = match kind {
            0x3 | 0x8 => length == 4,
            0x4 if flags & 0x1 == 0 => length.is_multiple_of(6),
            0x4 => length == 0,
            0x6 => length == 8,
            _ => true,
        };
        if !is_sound {
            return Err(Flood::FrameSize);
        }
        match kind {
            0x0 if length == 0 && flags & 0x1 == 0 => spend(&mut self.empty_data, Flood::EmptyData),
            0x0 => Ok(()),
            0x1 => {
                self.priority = self.priority.saturating_add(2);
                self.window = self.window.saturating_add(8);
                self.continuation_frames = 0;
                self.header_block_bytes = length;
                self.check_block()
            }
            0x9 => {
                self.continuation_frames += 1;
                self.header_block_bytes = self.header_block_bytes.saturating_add(length);
                self.check_block()
            }
            0x2 => take(&mut self.priority, Flood::Priority),
            0x3 => spend(&mut self.reset, Flood::Reset),
            0x8 => take(&mut self.window, Flood::Window),
            _ => spend(&mut self.control, Flood::Control),
        }
    }

    fn check_block(&self) -> Result<(), Flood> {
        let over = self.continuation_frames > self.limits.continuation_frames_max
            || self.header_block_bytes > self.limits.header_block_bytes_max;
        if over { Err(Flood::Continuation) } else { Ok(()) }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled);
        // A refill a read would add rounding errors and cost; tenths of a second do.
        if passed < Duration::from_millis(100) {
            return;
        }
        self.refilled = now;
        let earn = |budget: &mut f32, burst: u32, rate: u32| {
            *budget = (*budget + passed.as_secs_f32() * rate as f32).min(burst as f32);
        };
        earn(&mut self.control, self.limits.control_burst, self.limits.control_per_second);
        earn(&mut self.reset, self.limits.reset_burst, self.limits.reset_per_second);
        earn(&mut self.empty_data, self.limits.empty_data_burst, 10);
    }
}

fn spend(budget: &mut f32, flood: Flood) -> Result<(), Flood> {
    *budget -= 1.0;
    if *budget < 0.0 { Err(flood) } else { Ok(()) }
}

fn take(budget: &mut u32, flood: Flood) -> Result<(), Flood> {
    *budget = budget.checked_sub(1).ok_or(flood)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + payload, 0);
        bytes
    }

    fn meter(now: Instant) -> Meter {
        let mut meter = Meter::new(MeterLimits::default(), now);
        meter.received(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now).unwrap();
        meter.received(&frame(0x4, 0, 0), now).unwrap();
        meter
    }

    #[test]
    fn each_kind_of_flood_is_noticed_within_2000_frames() {
        let kinds = [
            (0x2, 5, Flood::Priority),
            (0x3, 4, Flood::Reset),
            (0x4, 0, Flood::Control),
            (0x6, 8, Flood::Control),
            (0x0, 0, Flood::EmptyData),
            (0x9, 0, Flood::Continuation),
            (0x9, 10_000, Flood::Continuation),
            (0x8, 4, Flood::Window),
            (0xbe, 3, Flood::Control),
        ];
        for (kind, payload, flood) in kinds {
            let now = Instant::now();
            let mut meter = meter(now);
            let bytes = frame(kind, 0, payload);
            let noticed = (0..=2_000).find_map(|_| meter.received(&bytes, now).err());
            assert_eq!(noticed, Some(flood), "kind {kind:#x}");
        }
    }

    #[test]
    fn frames_are_counted_alike_however_the_bytes_are_cut() {
        let now = Instant::now();
        let mut bytes = frame(0x6, 0, 8);
        bytes.extend(frame(0x0, 0, 100));
        bytes.extend(frame(0x4, 0, 12));
        for cut in 0..bytes.len() {
            let mut meter = meter(now);
            meter.received(&bytes[..cut], now).unwrap();
            meter.received(&bytes[cut..], now).unwrap();
            assert_eq!(meter.control, 197.0, "cut at {cut}");
            assert_eq!((meter.skip, meter.head_len), (0, 0));
        }
    }

    #[test]
    fn heads_that_no_sound_peer_sends_are_noticed() {
        let now = Instant::now();
        for (kind, flags, payload) in
            [(0x3, 0, 3), (0x3, 0, 5), (0x4, 0, 7), (0x4, 1, 6), (0x6, 0, 7), (0x8, 0, 0)]
        {
            let found = meter(now).received(&frame(kind, flags, payload), now);
            assert_eq!(found, Err(Flood::FrameSize), "{kind:#x} of {payload} bytes");
        }
        for (kind, flags) in [(0x6, 0), (0x1, 4), (0x4, 1)] {
            let found = Meter::for_client(MeterLimits::default(), now).received(&frame(kind, flags, 8), now);
            assert_eq!(found, Err(Flood::NoSettings), "{kind:#x}");
        }
    }

    #[test]
    fn a_long_download_earns_its_window_updates() {
        let now = Instant::now();
        let mut meter = meter(now);
        let update = frame(0x8, 0, 4);
        for _ in 0..100_000 {
            meter.sent(1024);
            meter.received(&update, now).unwrap();
        }
    }

    #[test]
    fn a_ping_a_second_goes_on_for_ever() {
        let mut now = Instant::now();
        let mut meter = meter(now);
        let ping = frame(0x6, 0, 8);
        for _ in 0..10_000 {
            now += Duration::from_secs(1);
            meter.received(&ping, now).unwrap();
        }
    }
}
