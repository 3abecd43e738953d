//! What cannot be seen from one field alone.

use althing_domain::policy::Span;
use althing_domain::validate::Problem;

use super::Config;
use crate::section::{AuthMode, Listen};

const POLICY_LEASE_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;
const RECORDS_KEPT_MS_MIN: u64 = 3_600_000;
const BODY_BYTES_MIN: u64 = 1_024;
const OTLP_INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
const OTLP_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=60_000;
const OTLP_TEXT_MAX: usize = 256;
const HEADER_BYTES: std::ops::RangeInclusive<u64> = 1_024..=(1 << 20);

impl Config {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        self.check_edge(problems);
        self.check_sizes(problems);
        if let Err(error) = self.node.name.check() {
            problems.push(Problem::new("node.name", error.to_string()));
        }
        for (index, entry) in self.secrets.allow.iter().enumerate() {
            let path = format!("secrets.allow[{index}]");
            if !(entry.starts_with("env:") || entry.starts_with("file:/")) {
                problems.push(Problem::new(
                    path,
                    "write env:NAME or file:/path (`*` stands for any run of characters)",
                ));
            } else if entry.split('/').any(|it| it == "..") {
                problems.push(Problem::new(
                    path,
                    "a path with `..` is never followed: write it in full",
                ));
            }
        }
        self.check_otlp(problems);
        self.check_cluster(problems);
    }

    fn check_otlp(&self, problems: &mut Vec<Problem>) {
        let Some(otlp) = &self.telemetry.otlp else { return };
        check_url("telemetry.otlp.endpoint", &otlp.endpoint, problems);
        if otlp.endpoint.contains(['?', '#']) {
            let problem = "must end with a host or a path: each signal's own path is put below it";
            problems.push(Problem::new("telemetry.otlp.endpoint", problem));
        }
        let is_header = |it: &str| {
            let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            !it.is_empty() && it.bytes().all(is_token)
        };
        for name in otlp.headers.keys().filter(|it| !is_header(it)) {
            let path = format!("telemetry.otlp.headers.{name}");
            problems.push(Problem::new(path, "is no name that a header can have"));
        }
        if !OTLP_INTERVAL_MS.contains(&otlp.interval.0.get()) {
            let path = "telemetry.otlp.interval";
            problems.push(Problem::new(path, "must be between 1s and 1h"));
        }
        if !OTLP_TIMEOUT_MS.contains(&otlp.timeout.0.get()) {
            let path = "telemetry.otlp.timeout";
            problems.push(Problem::new(path, "must be between 100ms and 1m"));
        }
        for (key, value) in &otlp.attributes {
            if key.is_empty() || OTLP_TEXT_MAX < key.len() || OTLP_TEXT_MAX < value.len() {
                let path = format!("telemetry.otlp.attributes.{key}");
                let problem = format!("name and value must have 1 to {OTLP_TEXT_MAX} bytes");
                problems.push(Problem::new(path, problem));
            }
        }
    }

    fn check_edge(&self, problems: &mut Vec<Problem>) {
        if self.auth == AuthMode::Open && !is_loopback(self.listen) {
            problems.push(Problem::new(
                "auth",
                format!(
                    "`open` lets whoever reaches {} use everything: listen at a loopback address such as 127.0.0.1:8080, or write `auth: keys`",
                    self.listen
                ),
            ));
        }
        if self.admin.listen == Some(self.listen) && self.listen.0.port() != 0 {
            problems.push(Problem::new(
                "admin.listen",
                "is the address of everything else: leave it out, or choose another port",
            ));
        }
        if let Some(url) = &self.public_url {
            check_url("public_url", url, problems);
        }
        for (index, origin) in self.browsers.origins.iter().enumerate() {
            let fits = url::Url::parse(origin)
                .is_ok_and(|it| it.origin().ascii_serialization() == *origin);
            if !fits {
                problems.push(Problem::new(
                    format!("browsers.origins[{index}]"),
                    "not an origin: write scheme, host and, where it is not the usual one, port, such as https://app.example.com",
                ));
            }
        }
    }

    fn check_sizes(&self, problems: &mut Vec<Problem>) {
        let mut expect = |fits: bool, path: &str, message: &str| {
            if !fits {
                problems.push(Problem::new(path, message));
            }
        };
        let Span(lease) = self.policy_lease;
        expect(
            POLICY_LEASE_MS.contains(&lease.get()),
            "policy_lease",
            "must be between 1s and 60s",
        );
        expect(BODY_BYTES_MIN <= self.limits.body.0, "limits.body", "must be at least 1KiB");
        expect(
            BODY_BYTES_MIN <= self.limits.mcp_result.0,
            "limits.mcp_result",
            "must be at least 1KiB",
        );
        expect(
            HEADER_BYTES.contains(&self.limits.header.0),
            "limits.header",
            "must be between 1KiB and 1MiB",
        );
        let Span(keep) = self.records.keep;
        expect(RECORDS_KEPT_MS_MIN <= keep.get(), "records.keep", "must be at least 1h");
        expect(
            crate::human::Size::mib(16) <= self.records.max_disk,
            "records.max_disk",
            "must be at least 16MiB",
        );
    }

    fn check_cluster(&self, problems: &mut Vec<Problem>) {
        let Some(cluster) = &self.cluster else { return };
        if let Err(error) = cluster.name.check() {
            problems.push(Problem::new("cluster.name", error.to_string()));
        }
        for (index, seed) in cluster.seeds.iter().enumerate() {
            let host_port = |it: &str| {
                it.rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
            };
            let fits = match (seed.strip_prefix("dns:"), seed.strip_prefix("srv:")) {
                (Some(name), _) => host_port(name),
                (_, Some(name)) => !name.is_empty(),
                (None, None) => host_port(seed),
            };
            if !fits {
                problems.push(Problem::new(
                    format!("cluster.seeds[{index}]"),
                    "write host:port, dns:name:port or srv:_service._udp.name",
                ));
            }
        }
        if cluster.advertise.is_some_and(|it| it.0.ip().is_unspecified()) {
            problems.push(Problem::new(
                "cluster.advertise",
                "others cannot reach 0.0.0.0: give the address of this node",
            ));
        }
    }
}

fn is_loopback(listen: Listen) -> bool {
    listen.0.ip().to_canonical().is_loopback()
}

fn check_url(path: &str, text: &str, problems: &mut Vec<Problem>) {
    let url = url::Url::parse(text)
        .ok()
        .filter(|it| matches!(it.scheme(), "http" | "https") && it.has_host());
    match url {
        None => problems
            .push(Problem::new(path, "not a URL: write one such as https://gateway.example.com")),
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            problems.push(Problem::new(
                path,
                "a URL must not hold a user or password: put credentials in headers",
            ));
        }
        Some(_) => {}
    }
}
