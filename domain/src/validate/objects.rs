//! The checks of each kind of object.

use super::{Report, clip};
use crate::policy::{
    Auth, Customer, Grant, KEY_BYTES_MIN, KeyProvider, McpServer, Provider, ProviderKey, Team,
    ToolGroup, Transport, VirtualKey,
};
use crate::secret::Form;
use crate::time::UnixMillis;

impl Provider {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check());
        if self.dialect.is_none() && !report.is_vendor(self.name.as_str()) {
            report.add(
                "dialect",
                format!(
                    "`{}` is not a known vendor: give `dialect` and `base_url`",
                    clip(self.name.as_str())
                ),
            );
        }
        match &self.base_url {
            Some(url) => report.url("base_url", url),
            None if report.is_vendor(self.name.as_str()) => {}
            None => report
                .add("base_url", "give the address of its API, such as https://api.example.com/v1"),
        }
        if let Some(proxy) = &self.proxy {
            report.url("proxy", proxy);
        }
        if let Some(ca) = &self.ca {
            report.secret("ca", ca);
        }
        report.headers("headers", &self.headers);
        self.validate_keys(report);
        for (alias, model) in &self.models {
            if alias.is_empty() || model.is_empty() {
                report.add(format!("models.{alias}"), "an alias and its model must not be empty");
            }
        }
        if self.prices.contains_key("") {
            report.add("prices", "a price needs the name of its model");
        }
        report.budgets("budget", &self.budget);
        report.rate("rate", self.rate.as_ref());
    }

    fn validate_keys(&self, report: &mut Report<'_>) {
        for (index, ProviderKey { name, value, models, .. }) in self.keys.iter().enumerate() {
            if let Err(error) = name.check() {
                report.add(format!("keys[{index}].name"), error.to_string());
            }
            report.secret(&format!("keys[{index}].value"), value);
            report.patterns(&format!("keys[{index}].models"), models);
        }
        report.unique("keys", self.keys.iter().map(|it| &it.name));
        let mut enabled = self.keys.iter().filter(|it| it.enabled).peekable();
        if enabled.peek().is_some() && enabled.all(|it| it.weight == 0) {
            report.add("keys", "every key has weight 0, so none would be used: give one a weight");
        }
    }
}

impl McpServer {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check_server());
        match self.transport {
            Transport::Stdio => self.validate_stdio(report),
            Transport::Http | Transport::Sse => self.validate_remote(report),
        }
        report.patterns("tools", &self.tools);
        report.patterns("auto_execute", &self.auto_execute);
        if self.prices.contains_key("") {
            report.add("prices", "a price needs the name of its tool");
        }
    }

    fn validate_stdio(&self, report: &mut Report<'_>) {
        match &self.command {
            None => report.add("command", "a stdio server needs the command that starts it"),
            Some(command) => match command.argv() {
                Err(problem) => report.add("command", problem),
                Ok(argv) if argv.iter().any(|it| it.contains('\0')) => {
                    report.add("command", "an argument must not hold a NUL character");
                }
                Ok(_) => {}
            },
        }
        for (name, value) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                report.add(format!("env.{name}"), "not the name of an environment variable");
            }
            report.secret(&format!("env.{name}"), value);
        }
        if self.url.is_some() {
            report.add("url", "a stdio server has no URL: leave it out, or give `transport: http`");
        }
        if !self.headers.is_empty() {
            report.add("headers", "a stdio server has no headers: pass credentials in `env`");
        }
        if self.auth.is_some() {
            report.add("auth", "a stdio server has no OAuth: pass credentials in `env`");
        }
    }

    fn validate_remote(&self, report: &mut Report<'_>) {
        match &self.url {
            Some(url) => report.url("url", url),
            None => {
                report
                    .add("url", "give the address of the server, such as https://example.com/mcp");
            }
        }
        if self.command.is_some() {
            report.add(
                "command",
                "only a stdio server has a command: leave it out, or give `transport: stdio`",
            );
        }
        if !self.env.is_empty() {
            report
                .add("env", "only a stdio server has an environment: put credentials in `headers`");
        }
        if self.cwd.is_some() {
            report.add("cwd", "only a stdio server has a folder: leave it out");
        }
        report.headers("headers", &self.headers);
        if let Some(Auth::OAuth(oauth)) = &self.auth {
            if self.headers.keys().any(|it| it.eq_ignore_ascii_case("authorization")) {
                report
                    .add("headers.authorization", "`auth` sets this header: leave one of them out");
            }
            if let Some(secret) = &oauth.client_secret {
                report.secret("auth.client_secret", secret);
            }
            if oauth.grant == Grant::ClientCredentials {
                if oauth.client_id.is_none() {
                    report.add(
                        "auth.client_id",
                        "the grant client_credentials needs the id of a registered client",
                    );
                }
                if oauth.client_secret.is_none() {
                    report.add(
                        "auth.client_secret",
                        "the grant client_credentials needs the client's secret",
                    );
                }
            }
        }
    }
}

impl ToolGroup {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check_server());
        report.tools("tools", &self.tools);
    }
}

impl Customer {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check());
        report.budgets("budget", &self.budget);
        report.rate("rate", self.rate.as_ref());
    }
}

impl Team {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check());
        report.budgets("budget", &self.budget);
        report.rate("rate", self.rate.as_ref());
    }
}

impl VirtualKey {
    pub(crate) fn validate(&self, report: &mut Report<'_>) {
        report.name(self.name.check());
        if let Some(value) = &self.value {
            report.secret("value", value);
            if let Form::Literal(text) = value.form()
                && !text.is_empty()
                && text.len() < KEY_BYTES_MIN
            {
                report.add("value", format!("a key has at least {KEY_BYTES_MIN} characters: leave `value` out to get one that cannot be guessed"));
            }
        }
        if self.team.is_some() && self.customer.is_some() {
            report.add("customer", "a key belongs to a team or to a customer: leave one out (a team brings its customer)");
        }
        for (index, KeyProvider { name, models, budget, rate, .. }) in
            self.providers.iter().enumerate()
        {
            let path = format!("providers[{index}]");
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-@*".contains(c);
            if name.0.is_empty() || !name.0.chars().all(allowed) {
                report.add(format!("{path}.name"), "name a provider, or `*` for any");
            }
            report.patterns(&format!("{path}.models"), models);
            report.budgets(&format!("{path}.budget"), budget);
            report.rate(&format!("{path}.rate"), rate.as_ref());
        }
        report.tools("tools", &self.tools);
        report.unique("tool_groups", &*self.tool_groups);
        report.budgets("budget", &self.budget);
        report.rate("rate", self.rate.as_ref());
        if self.default_max_tokens == Some(0) {
            report.add(
                "default_max_tokens",
                "must be at least 1: leave it out for the model's own maximum",
            );
        }
        if let Some(at) = &self.expires_at
            && UnixMillis::parse_rfc3339(at).is_err()
        {
            report.add(
                "expires_at",
                format!("`{}` is not a time like 2027-01-31T00:00:00Z", clip(at)),
            );
        }
    }
}
