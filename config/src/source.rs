//! The file and the environment, as one tree of values.

use std::path::Path;

use althing_domain::validate::Problem;
use serde_json::{Map, Value};

/// The longest configuration file.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The file as text.
pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    let problem = |what: String| Problem::new("", format!("{}: {what}", path.display()));
    let size = std::fs::metadata(path).map_err(|it| problem(it.to_string()))?.len();
    if FILE_BYTES_MAX < size {
        return Err(problem("longer than 64 MiB, which no configuration is".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(|it| problem(it.to_string()))?;
    String::from_utf8(bytes).map_err(|_| problem("not UTF-8 text".to_owned()))
}

/// YAML (or JSON, which is YAML) as a map.
pub(crate) fn parse(text: &str) -> Result<Map<String, Value>, Problem> {
    match parse_value(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(Problem::new(
                "",
                "a configuration is a map of sections, such as `listen: 127.0.0.1:8080`",
            ))
        }
        Err(problem) => Err(problem),
    }
}

pub(crate) fn parse_value(text: &str) -> Result<Value, Problem> {
    let options = serde_saphyr::options! {
        // Room for a hundred thousand keys; aliases stay bounded, so nothing can blow up.
        budget: serde_saphyr::budget! { max_nodes: 10_000_000, max_events: 40_000_000 },
        // `off` is a word here, and a number that begins with 0 may be a secret.
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        // An error that quotes the file would quote its secrets.
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error
            .location()
            .map_or_else(String::new, |it| format!("line {}, column {}", it.line(), it.column()));
        Problem::new(place, error.without_snippet().render())
    })
}

/// Puts `value` where `name` (`ALTHING__LIMITS__BODY`) says, and answers that path.
pub(crate) fn put_variable(
    root: &mut Map<String, Value>,
    name: &str,
    value: &str,
) -> Result<Vec<String>, Problem> {
    let path: Vec<String> = name
        .trim_start_matches(crate::env::PREFIX)
        .split("__")
        .map(str::to_ascii_lowercase)
        .collect();
    put(root, &path, Value::String(value.to_owned())).map(|()| path).ok_or_else(|| {
        Problem::new(
            name,
            "is a setting within something that is no map: unset it, or mend the file",
        )
    })
}

pub(crate) fn put(root: &mut Map<String, Value>, path: &[String], value: Value) -> Option<()> {
    let (last, parents) = path.split_last()?;
    let mut map = root;
    for parent in parents {
        let entry = map.entry(parent.clone()).or_insert(Value::Null);
        if entry.is_null() {
            *entry = Value::Object(Map::new());
        }
        map = entry.as_object_mut()?;
    }
    map.insert(last.clone(), value);
    Some(())
}
