//! What is wrong with a policy object, and how to mend it: all of it, not only the first.
//!
//! Only whoever proposes a write validates. `apply` does not, or a validator that grows
//! stricter would change what an old log means.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::{Name, NameError};
use crate::object::{Kind, Object};
use crate::pattern::Pattern;
use crate::policy::{Budgets, Period, Rate, Span};
use crate::secret::{Form, Secret};

mod objects;

const ROLLING_MS_MIN: u64 = 60_000;
const ROLLING_MS_MAX: u64 = 366 * 86_400_000;
const HEADERS_RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Where: `tools[1]` within an object, `virtual_keys[0].tools[1]` within a file. Empty: the whole of it.
    pub path: String,
    /// What is wrong, and how to mend it. Never holds a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl Problem {
    /// A problem at `path`.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// The same problem, seen from further out.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        self.path = join(prefix, &self.path);
        self
    }
}

fn join(prefix: &str, path: &str) -> String {
    match (prefix, path) {
        ("", it) | (it, "") => it.to_owned(),
        (prefix, path) if path.starts_with('[') => format!("{prefix}{path}"),
        (prefix, path) => format!("{prefix}.{path}"),
    }
}

/// What is wrong with `object` by itself. `is_vendor` says whether a provider's name brings its dialect and address.
#[must_use]
pub fn validate(object: &Object, is_vendor: &dyn Fn(&str) -> bool) -> Vec<Problem> {
    let mut report = Report { problems: Vec::new(), is_vendor };
    object.policy().check(&mut report);
    report.problems
}

/// One item of a file's list of policy objects.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it stands, such as `teams[1]`.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// The name it gives, so that references to it do not seem to dangle where the rest of it does not read.
    pub name: String,
    /// The object, where it reads.
    pub object: Option<Object>,
}

/// What is wrong with a whole file of objects, references included.
#[must_use]
pub fn validate_all(items: &[Item], is_vendor: &dyn Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut names = BTreeMap::new();
    for item in items {
        if let Some(first) = names.get(&(item.kind, item.name.as_str())) {
            problems.push(Problem::new(
                format!("{}.name", item.path),
                format!(
                    "`{}` is already the name of {first}: names are unique within a kind",
                    item.name
                ),
            ));
        } else {
            names.insert((item.kind, item.name.as_str()), item.path.as_str());
        }
    }
    for item in items {
        let Some(object) = &item.object else { continue };
        problems.extend(validate(object, is_vendor).into_iter().map(|it| it.within(&item.path)));
        for reference in object.policy().references() {
            if !names.contains_key(&(reference.kind, reference.name.as_str())) {
                problems.push(reference.missing().within(&item.path));
            }
        }
    }
    problems.extend(same_values(items));
    problems
}

/// Virtual keys that were given the same value.
fn same_values(items: &[Item]) -> Vec<Problem> {
    let mut seen = BTreeMap::new();
    let mut problems = Vec::new();
    for item in items {
        let Some(Object::VirtualKey(key)) = &item.object else { continue };
        let Some(value) = &key.value else { continue };
        if let Some(first) = seen.get(value) {
            problems.push(Problem::new(
                format!("{}.value", item.path),
                format!("is the value of {first} too: each key has its own, or nobody could tell who called"),
            ));
        } else {
            seen.insert(value, item.path.as_str());
        }
    }
    problems
}

/// Collects what is wrong with one object.
pub struct Report<'a> {
    problems: Vec<Problem>,
    is_vendor: &'a dyn Fn(&str) -> bool,
}

impl Report<'_> {
    /// Adds a problem.
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn is_vendor(&self, name: &str) -> bool {
        (self.is_vendor)(name)
    }

    fn name(&mut self, checked: Result<(), NameError>) {
        if let Err(error) = checked {
            self.add("name", error.to_string());
        }
    }

    /// An address that credentials must not be part of.
    fn url(&mut self, path: &str, text: &str) {
        let Ok(url) = url::Url::parse(text) else {
            self.add(path, "not a URL: write one such as https://api.example.com/v1");
            return;
        };
        if !matches!(url.scheme(), "http" | "https") {
            self.add(path, "only http and https URLs are called: begin with https:// (or http://)");
        } else if !url.has_host() {
            self.add(path, "the URL names no host: write one such as https://api.example.com/v1");
        }
        if !url.username().is_empty() || url.password().is_some() {
            self.add(
                path,
                "a URL must not hold a user or password: put credentials in headers or keys",
            );
        }
        if url.fragment().is_some() {
            self.add(path, "a URL's `#…` part is never sent: leave it out");
        }
    }

    fn headers<'a>(
        &mut self,
        path: &str,
        headers: impl IntoIterator<Item = (&'a String, &'a Secret)>,
    ) {
        for (name, value) in headers {
            let path = format!("{path}.{name}");
            if name.is_empty()
                || !name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
            {
                self.add(&path, "not the name of an HTTP header: use letters, digits and `-`");
            } else if HEADERS_RESERVED.contains(&name.to_ascii_lowercase().as_str()) {
                self.add(
                    &path,
                    "this header belongs to the connection and is set by the gateway: leave it out",
                );
            }
            self.secret(&path, value);
            if let Form::Literal(text) = value.form()
                && text.chars().any(|c| c.is_control() && c != '\t')
            {
                self.add(&path, "a header's value must be one line without control characters");
            }
        }
    }

    fn secret(&mut self, path: &str, secret: &Secret) {
        let message = match secret.form() {
            Form::Env("") => "names no environment variable: write env:NAME",
            Form::Env(name) if name.contains(['=', '\0']) => {
                "not the name of an environment variable: write env:NAME"
            }
            Form::File("") => "names no file: write file:/path",
            Form::Literal("") => "must not be empty",
            Form::Env(_) | Form::File(_) | Form::Sealed(_) | Form::Literal(_) => return,
        };
        self.add(path, message);
    }

    fn budgets(&mut self, path: &str, budgets: &Budgets) {
        for (index, budget) in budgets.0.iter().enumerate() {
            let path =
                if budgets.0.len() == 1 { path.to_owned() } else { format!("{path}[{index}]") };
            if let Some(zone) = &budget.time_zone {
                if !crate::budget::is_time_zone(zone) {
                    self.add(
                        format!("{path}.time_zone"),
                        format!(
                            "`{}` is not an IANA time zone: write one such as Europe/Berlin",
                            clip(zone)
                        ),
                    );
                }
                if matches!(budget.period, Period::Total | Period::Rolling(_)) {
                    self.add(
                        format!("{path}.time_zone"),
                        "a time zone means nothing here, only calendar periods turn in one: leave it out",
                    );
                }
            }
            if let Period::Rolling(Span(millis)) = budget.period
                && !(ROLLING_MS_MIN..=ROLLING_MS_MAX).contains(&millis.get())
            {
                self.add(format!("{path}.period"), "a rolling period is between 1m and 366d");
            }
            let same = |it: &&crate::policy::Budget| {
                it.period == budget.period && it.time_zone == budget.time_zone
            };
            if budgets.0.iter().take(index).any(|it| same(&it)) {
                self.add(
                    format!("{path}.period"),
                    "another budget of this list has the same period: keep one of them",
                );
            }
        }
    }

    fn rate(&mut self, path: &str, rate: Option<&Rate>) {
        if rate.is_some_and(|it| {
            it.requests.is_none() && it.tokens.is_none() && it.concurrent.is_none()
        }) {
            self.add(
                path,
                "limits nothing: give `requests`, `tokens` or `concurrent`, or leave it out",
            );
        }
    }

    /// Tools as policy names them: `server/tool`, or `*` for all.
    fn tools(&mut self, path: &str, tools: &[Pattern]) {
        for (index, tool) in tools.iter().enumerate() {
            let server = |it: &str| {
                !it.is_empty()
                    && it.bytes().all(|b| b.is_ascii_alphanumeric() || b"_*".contains(&b))
            };
            let fits = tool.0 == "*"
                || tool
                    .0
                    .split_once('/')
                    .is_some_and(|(head, tail)| server(head) && !tail.is_empty());
            if !fits {
                self.add(
                    format!("{path}[{index}]"),
                    format!(
                        "`{}` is not `server/tool`: write one such as `search/*`, or `*` for all",
                        clip(&tool.0)
                    ),
                );
            }
        }
    }

    fn patterns(&mut self, path: &str, patterns: &[Pattern]) {
        for (index, pattern) in patterns.iter().enumerate() {
            if pattern.0.is_empty() {
                self.add(
                    format!("{path}[{index}]"),
                    "matches nothing: write a name, or `*` for all",
                );
            }
        }
    }

    fn unique<'a>(&mut self, path: &str, names: impl IntoIterator<Item = &'a Name>) {
        let mut seen = std::collections::BTreeSet::new();
        for (index, name) in names.into_iter().enumerate() {
            if !seen.insert(name) {
                self.add(format!("{path}[{index}]"), format!("`{name}` is named twice: keep one"));
            }
        }
    }
}

/// As much of a stranger's text as an error may repeat.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests;
