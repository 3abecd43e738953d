//! A file, then variables, then flags: one configuration, or everything that is wrong with it.

use std::path::{Path, PathBuf};

use althing_domain::object::{Kind, Object};
use althing_domain::policy::Span;
use althing_domain::validate::{Item, Problem, validate, validate_all};
use serde_json::{Map, Value};

use crate::diff::Field;
use crate::parse::{Reader, nearest};
use crate::secret_ref::AllowList;
use crate::section::{
    Admin, AuthMode, Browsers, Cluster, Limits, Listen, Node, Partition, Records, Secrets,
    Telemetry, Tls,
};
use crate::source;

mod check;

/// What the command line says, over the file and the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--data`.
    pub data_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
}

macro_rules! settings {
    ($($(#[$doc:meta])* $section:ident: $type:ty = $default:expr;)+) => {
        /// The configuration of a node, and the policy that its file holds.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            /// The file it was read from.
            pub file: Option<PathBuf>,
            $($(#[$doc])* pub $section: $type,)+
            /// The policy objects of the file, those that others refer to first, in the order of the file.
            pub policy: Vec<Object>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self { file: None, $($section: $default,)+ policy: Vec::new() }
            }
        }

        /// The sections that set up the node.
        pub(crate) const SETTINGS: &[&str] = &[$(stringify!($section)),+];

        impl Config {
            fn take(&mut self, section: &str, value: Value, reader: &mut Reader<'_>) {
                match section {
                    $(stringify!($section) => {
                        if let Some(it) = reader.read(section, value) {
                            self.$section = it;
                        }
                    })+
                    _ => {}
                }
            }

            /// The settings of the node, by section, with secrets hidden.
            #[must_use]
            pub fn settings(&self) -> Map<String, Value> {
                let mut map = Map::new();
                $(map.insert(stringify!($section).to_owned(), serde_json::to_value(&self.$section).unwrap_or_default());)+
                map
            }
        }

        /// The file, for its schema.
        #[derive(schemars::JsonSchema)]
        #[schemars(deny_unknown_fields, default)]
        pub(crate) struct Settings {
            $($(#[$doc])* $section: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                let Config { $($section,)+ .. } = Config::default();
                Self { $($section,)+ }
            }
        }
    };
}

settings! {
    /// This node.
    node: Node = Node::default();
    /// Where it listens: models, MCP, administration, health and metrics.
    listen: Listen = Listen::default();
    /// Administration.
    admin: Admin = Admin::default();
    /// Whether callers need a virtual key.
    auth: AuthMode = AuthMode::default();
    /// TLS at the listener. Absent: plain HTTP.
    tls: Option<Tls> = None;
    /// The gateway's address as callers see it, for OAuth metadata and links.
    public_url: Option<String> = None;
    /// How much is taken at a time.
    limits: Limits = Limits::default();
    /// Web pages that may call.
    browsers: Browsers = Browsers::default();
    /// What is kept of each call.
    records: Records = Records::default();
    /// Logs, traces and metrics.
    telemetry: Telemetry = Telemetry::default();
    /// Secrets of the machine that policy may refer to.
    secrets: Secrets = Secrets::default();
    /// What the node does when it cannot reach a majority of the cluster. Without effect on a single node.
    partition: Partition = Partition::default();
    /// How long a node may act on policy without having heard from a majority. Without effect on a single node.
    policy_lease: Span = Span::from_secs(3);
    /// The cluster that the node is of. Absent: a single node, which is all that this build can be: it refuses to start
    /// with this section.
    cluster: Option<Cluster> = None;
}

impl Config {
    /// What policy may refer to on this machine: what `secrets.allow` lists, and what the file itself refers to.
    #[must_use]
    pub fn allow_list(&self) -> AllowList {
        AllowList::new(&self.secrets.allow).with_references_of(&self.policy)
    }

    /// Why a node cannot be started with this configuration, valid as it is.
    ///
    /// # Errors
    ///
    /// Names the setting that this build has no use for yet.
    pub fn check_startable(&self) -> Result<(), Problem> {
        match &self.cluster {
            None => Ok(()),
            Some(_) => Err(Problem::new(
                "cluster",
                "this build runs single nodes only, clusters come with a later one: remove the section to start",
            )),
        }
    }
}

/// Reads the configuration: the file (none: all defaults), then `ALTHING__SECTION__KEY` variables, then `overrides`.
///
/// `vendors` are the provider names that bring their own dialect and address.
///
/// # Errors
///
/// Everything that is wrong, each with its path and how to mend it.
pub fn load(
    path: Option<&Path>,
    overrides: &Overrides,
    vendors: &[&str],
) -> Result<Config, Vec<Problem>> {
    let text = path.map(source::read).transpose().map_err(|it| vec![it])?;
    let mut config =
        load_text(&text.unwrap_or_default(), &crate::env::settings(), overrides, vendors)?;
    config.file = path.map(Path::to_owned);
    Ok(config)
}

/// As [`load`], from text and variables that are given.
///
/// # Errors
///
/// As [`load`].
pub fn load_text(
    text: &str,
    variables: &[(String, String)],
    overrides: &Overrides,
    vendors: &[&str],
) -> Result<Config, Vec<Problem>> {
    let mut root = source::parse(text).map_err(|it| vec![it])?;
    let mut problems = Vec::new();
    let mut set = Vec::new();
    for (name, value) in variables {
        match source::put_variable(&mut root, name, value) {
            Ok(path) => set.push((path, name.clone())),
            Err(problem) => problems.push(problem),
        }
    }
    apply_overrides(&mut root, overrides);
    let mut reader = Reader { problems, variables: &set };
    let mut config = Config::default();
    for section in SETTINGS {
        if let Some(value) = root.remove(*section).filter(|it| !it.is_null()) {
            config.take(section, value, &mut reader);
        }
    }
    config.policy = read_policy(&mut root, &mut reader, vendors);
    reject_unknown(&root, &mut reader);
    let mut problems = reader.problems;
    config.check(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn apply_overrides(root: &mut Map<String, Value>, overrides: &Overrides) {
    if let Some(listen) = &overrides.listen {
        root.insert("listen".to_owned(), Value::String(listen.clone()));
    }
    if let Some(dir) = &overrides.data_dir {
        let node = root.entry("node").or_insert_with(|| Value::Object(Map::new()));
        if let Some(node) = node.as_object_mut() {
            node.insert("data_dir".to_owned(), Value::String(dir.to_string_lossy().into_owned()));
        }
    }
}

/// Reads policy objects of a whole file, for `POST /api/apply` and the like. Sections that set up a node are passed over.
///
/// # Errors
///
/// As [`load`].
pub fn policy_from_text(text: &str, vendors: &[&str]) -> Result<Vec<Object>, Vec<Problem>> {
    let root = source::parse(text).map_err(|it| vec![it])?;
    policy_from_map(root, vendors)
}

/// Reads a whole file for a node that runs: its policy, and which of its node settings are others than `running`
/// ([`Config::settings`]). Sections that the file does not have are as they are.
///
/// # Errors
///
/// As [`load`]: settings too are read and checked by their types.
pub fn file_from_text(
    text: &str,
    vendors: &[&str],
    running: &Map<String, Value>,
) -> Result<(Vec<Object>, Vec<Field>), Vec<Problem>> {
    let mut root = source::parse(text).map_err(|it| vec![it])?;
    let mut reader = Reader { problems: Vec::new(), variables: &[] };
    let mut config = Config::default();
    let mut named = Vec::new();
    for section in SETTINGS {
        if let Some(value) = root.remove(*section).filter(|it| !it.is_null()) {
            config.take(section, value, &mut reader);
            named.push(*section);
        }
    }
    let policy = read_policy(&mut root, &mut reader, vendors);
    reject_unknown(&root, &mut reader);
    if !reader.problems.is_empty() {
        return Err(reader.problems);
    }
    let only = |all: &Map<String, Value>| {
        all.iter()
            .filter(|(section, _)| named.contains(&section.as_str()))
            .map(|(section, value)| (section.clone(), value.clone()))
            .collect()
    };
    Ok((policy, crate::diff::settings(&only(running), &only(&config.settings()))))
}

/// As [`policy_from_text`], from JSON that is read already.
///
/// # Errors
///
/// As [`load`].
pub fn policy_from_json(file: Value, vendors: &[&str]) -> Result<Vec<Object>, Vec<Problem>> {
    match file {
        Value::Object(root) => policy_from_map(root, vendors),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(vec![Problem::new(
                "",
                "a policy file is a map of lists, such as { \"customers\": [] }",
            )])
        }
    }
}

fn policy_from_map(
    mut root: Map<String, Value>,
    vendors: &[&str],
) -> Result<Vec<Object>, Vec<Problem>> {
    let mut reader = Reader { problems: Vec::new(), variables: &[] };
    for section in SETTINGS {
        root.remove(*section);
    }
    let policy = read_policy(&mut root, &mut reader, vendors);
    reject_unknown(&root, &mut reader);
    if reader.problems.is_empty() { Ok(policy) } else { Err(reader.problems) }
}

/// Reads one object of a kind from JSON, for the API.
///
/// # Errors
///
/// Everything that is wrong with it by itself; what it refers to is checked when it is proposed.
pub fn object_from_json(kind: Kind, json: Value, vendors: &[&str]) -> Result<Object, Vec<Problem>> {
    let mut reader = Reader { problems: Vec::new(), variables: &[] };
    let object = read_object(&mut reader, kind, "", json);
    let mut problems = reader.problems;
    match object {
        Some(object) => {
            problems.extend(validate(&object, &|name| vendors.contains(&name)));
            if problems.is_empty() { Ok(object) } else { Err(problems) }
        }
        None => Err(problems),
    }
}

fn read_object(reader: &mut Reader<'_>, kind: Kind, at: &str, json: Value) -> Option<Object> {
    reader.read_with(at, json, |it, track| {
        Object::deserialize_as(kind, serde_path_to_error::Deserializer::new(it, track))
    })
}

/// The policy lists of a file, checked.
fn read_policy(
    root: &mut Map<String, Value>,
    reader: &mut Reader<'_>,
    vendors: &[&str],
) -> Vec<Object> {
    let is_vendor = |name: &str| vendors.contains(&name);
    let mut read = Vec::new();
    for kind in Kind::ALL {
        let items = match root.remove(kind.field()) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(items)) => items,
            Some(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
                reader.problems.push(Problem::new(
                    kind.field(),
                    format!("expected a list: each {kind} is one item of it"),
                ));
                continue;
            }
        };
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", kind.field());
            // Read even of what does not read as a whole, or each mistake would draw others after it.
            let name = item
                .get("name")
                .and_then(Value::as_str)
                .map_or_else(|| path.clone(), str::to_owned);
            let object = read_object(reader, *kind, &path, item);
            read.push(Item { path, kind: *kind, name, object });
        }
    }
    reader.problems.extend(validate_all(&read, &is_vendor));
    read.into_iter().filter_map(|it| it.object).collect()
}

fn reject_unknown(root: &Map<String, Value>, reader: &mut Reader<'_>) {
    let policy = Kind::ALL.iter().map(|it| it.field());
    let known: Vec<&str> = SETTINGS.iter().copied().chain(policy).collect();
    for name in root.keys() {
        let hint = match nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the known ones are {}", known.join(", ")),
        };
        let variable = reader.variables.iter().find(|(path, _)| path.first() == Some(name));
        let from =
            variable.map_or_else(String::new, |(_, variable)| format!(" (set by {variable})"));
        reader.problems.push(Problem::new(name, format!("unknown section: {hint}{from}")));
    }
}

#[cfg(test)]
mod tests;
