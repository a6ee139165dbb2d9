//! What an upstream must be, beyond its types.

use super::nodes::split_host_port;
use super::route::validate_positive;
use super::ssl::{validate_certificates, validate_key};
use super::{
    Balance, HashOn, LINES_MAX, Line, Object, PassHost, RETRIES_MAX, Reference, Timeout, Upstream,
    UpstreamScheme, UpstreamTls, VIA_MAX, is_host_pattern, object_basics, validate_description,
};
use crate::config::{Id, Kind, Problems};

impl Object for Upstream {
    object_basics!(Kind::Upstreams);

    fn validate(&self, problems: &mut Problems) {
        validate_description(self.name.as_ref(), self.desc.as_ref(), &self.labels, problems);
        let discovery = [
            ("service_name", &self.service_name),
            ("discovery_type", &self.discovery_type),
            ("discovery_args", &self.discovery_args),
        ];
        for (field, value) in discovery {
            if let Some(value) = value {
                let message =
                    "service discovery is not supported; use nodes, whose names are resolved by DNS";
                problems.add(field, value.clone(), message);
            }
        }
        self.validate_lines(problems);
        self.validate_hash(problems);
        if let Some(checks) = &self.checks {
            problems.within("checks", |problems| checks.validate(problems));
        }
        if let Some(retries) = self.retries
            && retries > RETRIES_MAX
        {
            problems.add("retries", retries, "must be at most 255");
        }
        problems.within("timeout", |problems| self.timeout.validate(problems));
        problems.within("tls", |problems| self.tls.validate(problems));
        if self.keepalive_pool.size == 0 {
            problems.add("keepalive_pool.size", 0, "must be at least 1");
        }
        if self.keepalive_pool.requests == 0 {
            problems.add("keepalive_pool.requests", 0, "must be at least 1");
        }
        validate_positive("failover.connect_timeout", self.failover.connect_timeout, problems);
        if self.failover.latency_margin > 1000 {
            problems.add(
                "failover.latency_margin",
                self.failover.latency_margin,
                "must be at most 1000 percent",
            );
        }
        match &self.upstream_host {
            Some(host) if !is_host_pattern(host) => {
                problems.add("upstream_host", host.as_str(), "must be a host name or address");
            }
            None if self.pass_host == PassHost::Rewrite => {
                problems.add_plain("upstream_host", "is required with pass_host: rewrite");
            }
            _ => {}
        }
    }

    fn references(&self) -> Vec<Reference> {
        self.references_under("")
    }
}

impl Upstream {
    fn validate_lines(&self, problems: &mut Problems) {
        match (&self.nodes, &self.lines) {
            (Some(_), Some(_)) => problems.add_plain("lines", "cannot stand beside nodes; use one of them"),
            (None, None) if self.service_name.is_none() => {
                problems.add_plain("nodes", "is required, or lines")
            }
            (None, None) => {}
            (Some(nodes), None) => nodes.validate("nodes", self.scheme, problems),
            (None, Some(lines)) => {
                if lines.is_empty() || lines.len() > LINES_MAX {
                    problems.add("lines", lines.len(), "must hold 1 to 64 lines");
                }
                for (index, line) in lines.iter().enumerate() {
                    problems.within(&format!("lines[{index}]"), |problems| {
                        if lines[..index].iter().any(|earlier| earlier.name == line.name) {
                            problems.add("name", line.name.as_str(), "is the name of two lines");
                        }
                        line.validate(self.scheme, problems);
                    });
                }
            }
        }
    }

    fn validate_hash(&self, problems: &mut Problems) {
        if self.balance != Balance::Chash {
            return;
        }
        let Some(key) = &self.key else {
            if self.hash_on != HashOn::Consumer {
                problems.add_plain("key", "is required with type: chash");
            }
            return;
        };
        let name = |key: &str| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        match self.hash_on {
            HashOn::Vars if !name(key) => problems.add("key", key.as_str(), "must be the name of a variable"),
            HashOn::Header | HashOn::Cookie if !name(key) => {
                problems.add("key", key.as_str(), "must be a name of letters, digits, '-' and '_'");
            }
            HashOn::VarsCombinations if !key.contains('$') => {
                problems.add("key", key.as_str(), "must name at least one variable as $name");
            }
            _ => {}
        }
    }
}

impl Line {
    fn validate(&self, scheme: UpstreamScheme, problems: &mut Problems) {
        if Id::new(&self.name).is_err() {
            problems.add("name", self.name.as_str(), "must be 1 to 64 characters of a-zA-Z0-9-_.");
        }
        self.nodes.validate("nodes", scheme, problems);
        if self.via.len() > VIA_MAX {
            problems.add("via", self.via.len(), "must be at most 8 relays");
        }
        for (index, relay) in self.via.iter().enumerate() {
            if !matches!(split_host_port(relay), Some((_, Some(_)))) {
                problems.add(&format!("via[{index}]"), relay.as_str(), "must be host:port");
            }
        }
        if let Some(checks) = &self.checks {
            problems.within("checks", |problems| checks.validate(problems));
        }
        if let Some(tls) = &self.tls {
            problems.within("tls", |problems| tls.validate(problems));
        }
    }
}

impl Timeout {
    pub(super) fn validate(&self, problems: &mut Problems) {
        validate_positive("connect", self.connect, problems);
        validate_positive("send", self.send, problems);
        validate_positive("read", self.read, problems);
        if let Some(total) = self.total {
            validate_positive("total", total, problems);
        }
    }
}

impl UpstreamTls {
    fn validate(&self, problems: &mut Problems) {
        match (&self.client_cert, &self.client_key) {
            (Some(_), None) => problems.add_plain("client_key", "is required with client_cert"),
            (None, Some(_)) => problems.add_plain("client_cert", "is required with client_key"),
            (Some(_), Some(_)) if self.client_cert_id.is_some() => {
                problems.add_plain("client_cert_id", "cannot stand beside client_cert; use one of them");
            }
            _ => {}
        }
        if let Some(ca) = &self.ca {
            validate_certificates("ca", ca, problems);
        }
        if let Some(cert) = &self.client_cert {
            validate_certificates("client_cert", cert, problems);
        }
        if let Some(key) = &self.client_key {
            validate_key("client_key", key, problems);
        }
        if let Some(sni) = &self.sni
            && (!is_host_pattern(sni) || sni.starts_with('*'))
        {
            problems.add("sni", sni.as_str(), "must be a server name");
        }
    }
}
