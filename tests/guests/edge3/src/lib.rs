//! An edge function by `wasi:http/handler` of WASI 0.3.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

wasip3::http::service::export!(Edge);

struct Edge;

impl wasip3::exports::http::handler::Guest for Edge {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        if path.ends_with("/refuse") {
            return Err(ErrorCode::InternalError(None));
        }
        let (mut body, body_end) = wit_stream::new();
        let (result, result_end) = wit_future::new(|| Ok(None));
        let (response, _sent) = Response::new(Fields::new(), Some(body_end), result_end);
        drop(result);
        wit_bindgen::spawn_local(async move {
            body.write_all(format!("third {path}").into_bytes()).await;
        });
        Ok(response)
    }
}
