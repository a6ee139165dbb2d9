//! What the status and metrics addresses answer.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use crate::observe::Metrics;

use super::exchange::{Request, Response, Site};
use super::status::Readiness;
use super::{Gateway, health};

/// `/v1/status`, `/v1/config`, `/v1/fleet`, `/v1/healthcheck`, `/v1/modules`,
/// `/status`, `/status/ready`.
pub struct StatusSite {
    gateway: Arc<dyn Gateway>,
}

impl StatusSite {
    /// A site that speaks for `gateway`.
    #[must_use]
    pub fn new(gateway: Arc<dyn Gateway>) -> Self {
        Self { gateway }
    }
}

impl Site for StatusSite {
    fn respond(&self, request: &Request) -> Response {
        if !request.is_read() {
            return Response::only_reads();
        }
        let parts: Vec<&str> = request.path.trim_start_matches('/').split('/').collect();
        match parts[..] {
            ["status"] => Response::json(200, &json!({"status": "ok"})),
            ["status", "ready"] => ready(&self.gateway.readiness()),
            ["v1", "status"] => Response::json(200, &self.gateway.status()),
            ["v1", "config"] => Response::json(200, &self.gateway.in_force()),
            ["v1", "fleet"] => match self.gateway.fleet() {
                Ok(nodes) => Response::json(200, &json!({"nodes": nodes})),
                Err(reason) => Response::error(503, &reason),
            },
            ["v1", "modules"] => Response::json(200, &self.gateway.status().modules),
            ["v1", "healthcheck"] => health::list(&self.gateway.status()),
            ["v1", "healthcheck", kind, id] => health::one(&self.gateway.status(), kind, id),
            _ => {
                Response::error(404, "not found; see /v1/status, /v1/healthcheck, /v1/modules, /status/ready")
            }
        }
    }
}

fn ready(readiness: &Readiness) -> Response {
    match readiness.reason() {
        None => Response::json(200, &json!({"status": "ok"})),
        Some(reason) => {
            Response::json(503, &json!({"status": "error", "state": readiness.as_str(), "error": reason}))
        }
    }
}

/// `/apisix/prometheus/metrics`, and `/metrics` for who expects it there.
pub struct MetricsSite {
    metrics: Arc<Metrics>,
    /// One scrape at a time: a text over many routes is large.
    scraping: Mutex<()>,
}

impl MetricsSite {
    /// A site that shows `metrics`.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, scraping: Mutex::new(()) }
    }
}

impl Site for MetricsSite {
    fn respond(&self, request: &Request) -> Response {
        if !request.is_read() {
            return Response::only_reads();
        }
        match request.path.as_str() {
            "/apisix/prometheus/metrics" | "/metrics" => {
                let _one = self.scraping.lock();
                Response::text(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics.render())
            }
            _ => Response::error(404, "not found; metrics are at /apisix/prometheus/metrics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{LineStatus, NodeStatus, State, Status, UpstreamStatus};
    use serde_json::Value;

    struct Fake(Readiness);

    impl Gateway for Fake {
        fn readiness(&self) -> Readiness {
            self.0.clone()
        }

        fn status(&self) -> Status {
            let nodes = vec![
                NodeStatus {
                    host: "im.example".into(),
                    addresses: vec!["10.0.0.5".into()],
                    port: 9000,
                    state: State::Unhealthy,
                    ..NodeStatus::default()
                },
                NodeStatus { host: "10.0.0.6".into(), port: 9000, ..NodeStatus::default() },
            ];
            let upstream = |id: &str, check: Option<&str>| UpstreamStatus {
                kind: "upstreams".into(),
                id: id.into(),
                check: check.map(Into::into),
                lines: vec![LineStatus {
                    name: "leased".into(),
                    nodes: nodes.clone(),
                    ..LineStatus::default()
                }],
                ..UpstreamStatus::default()
            };
            Status {
                state: self.0.as_str().into(),
                upstreams: vec![upstream("im", Some("tcp")), upstream("quiet", None)],
                ..Status::default()
            }
        }
    }

    fn ask(readiness: Readiness, path: &str) -> (u16, Value) {
        let response = StatusSite::new(Arc::new(Fake(readiness))).respond(&Request::get(path));
        (response.status, serde_json::from_slice(&response.body).unwrap())
    }

    #[test]
    fn readiness_is_a_status_code_with_a_reason() {
        let starting = Readiness::Starting("no snapshot yet".into());
        assert_eq!(ask(Readiness::Ready, "/status/ready"), (200, json!({"status": "ok"})));
        let error = json!({"status": "error", "state": "starting", "error": "no snapshot yet"});
        assert_eq!(ask(starting.clone(), "/status/ready"), (503, error));
        assert_eq!(ask(Readiness::Draining, "/status/ready").0, 503);
        assert_eq!(ask(starting, "/status").0, 200, "alive while not ready");
    }

    #[test]
    fn health_has_the_form_of_apisix() {
        let counter = json!({"success": 0, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0});
        let im = json!({"name": "/apisix/upstreams/im", "type": "tcp", "nodes": [
            {"hostname": "im.example", "ip": "10.0.0.5", "port": 9000, "status": "unhealthy", "counter": counter,
                "line": "leased"},
            {"hostname": "10.0.0.6", "ip": "10.0.0.6", "port": 9000, "status": "healthy", "counter": counter,
                "line": "leased"},
        ]});
        assert_eq!(ask(Readiness::Ready, "/v1/healthcheck"), (200, json!([im])));
        assert_eq!(ask(Readiness::Ready, "/v1/healthcheck/upstreams/im"), (200, im));
    }

    #[test]
    fn what_is_not_there_is_said_so() {
        for (path, status, message) in [
            ("/v1/healthcheck/upstreams/quiet", 404, "no checker for upstreams[quiet]"),
            ("/v1/healthcheck/upstreams/none", 404, "no checker for upstreams[none]"),
            ("/v1/healthcheck/consumers/x", 400, "invalid src type consumers"),
            ("/v1/healthcheck/upstreams/im/x", 404, "not found"),
            ("/v1/../v1/status", 404, "not found"),
            ("/", 404, "not found"),
            ("", 404, "not found"),
        ] {
            let (found, body) = ask(Readiness::Ready, path);
            assert_eq!(found, status, "{path}");
            assert!(body["error_msg"].as_str().unwrap().starts_with(message), "{path}: {body}");
        }
    }

    #[test]
    fn nothing_is_written_here() {
        let post = Request { method: "POST".into(), ..Request::get("/v1/status") };
        let site = StatusSite::new(Arc::new(Fake(Readiness::Ready)));
        assert_eq!(site.respond(&post).status, 405);
        let metrics = MetricsSite::new(Metrics::new(1, "n"));
        assert_eq!(metrics.respond(&Request { path: "/metrics".into(), ..post }).status, 405);
    }

    #[test]
    fn metrics_are_where_apisix_has_them() {
        let site = MetricsSite::new(Metrics::new(1, "n"));
        let response = site.respond(&Request::get("/apisix/prometheus/metrics"));
        assert_eq!(response.status, 200);
        assert_eq!(response.headers[0].1, "text/plain; version=0.0.4; charset=utf-8");
        assert!(String::from_utf8(response.body).unwrap().contains("\napisix_node_info{hostname="));
        assert_eq!(site.respond(&Request::get("/")).status, 404);
    }
}
