//! From a value to a type, telling all that is wrong with it.

use althing_domain::validate::Problem;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

mod explain;

pub(crate) use explain::nearest;

/// How many problems of one section are told. More do not help.
const PROBLEMS_MAX: usize = 20;

/// How a value is read at a path of the file.
pub(crate) struct Reader<'a> {
    /// What is wrong so far.
    pub(crate) problems: Vec<Problem>,
    /// Paths that a variable gave, and its name. Their values are text, whatever the field is.
    pub(crate) variables: &'a [(Vec<String>, String)],
}

impl Reader<'_> {
    /// Reads `value`, found at `at`. What is wrong is noted, then left out, so that the rest is looked at too.
    pub(crate) fn read<T: DeserializeOwned>(&mut self, at: &str, value: Value) -> Option<T> {
        self.read_with(at, value, |it, track| {
            T::deserialize(serde_path_to_error::Deserializer::new(it, track))
        })
    }

    pub(crate) fn read_with<T>(
        &mut self,
        at: &str,
        mut value: Value,
        read: impl Fn(&Value, &mut serde_path_to_error::Track) -> Result<T, serde_json::Error>,
    ) -> Option<T> {
        let mut found = 0;
        let mut typed = Vec::new();
        let mut removed: Vec<Vec<Step>> = Vec::new();
        loop {
            let mut track = serde_path_to_error::Track::new();
            let error = match read(&value, &mut track) {
                Ok(it) => return (found == 0).then_some(it),
                Err(error) => error,
            };
            let explained = explain::explain(&error.to_string());
            let mut path = steps(&track.path());
            if let Some(field) = &explained.unknown_field
                && path.last() != Some(&Step::Key(field.clone()))
            {
                path.push(Step::Key(field.clone()));
            }
            if let Some(field) = &explained.missing_field {
                let missing = [path.as_slice(), &[Step::Key(field.clone())]].concat();
                if !removed.contains(&missing) {
                    self.problems.push(Problem::new(show(at, &path), explained.text));
                }
                return None;
            }
            let place = show(at, &path);
            let variable = self.variables.iter().find(|(it, _)| it.join(".") == place);
            if variable.is_some() && !typed.contains(&place) {
                // Perhaps a number, a list or a map was meant.
                retype(&mut value, &path);
                typed.push(place);
                continue;
            }
            let from = variable.map_or_else(String::new, |(_, name)| format!(" (set by {name})"));
            self.problems.push(Problem::new(place, format!("{}{from}", explained.text)));
            found += 1;
            if found == PROBLEMS_MAX || !remove(&mut value, &path) {
                return None;
            }
            removed.push(path);
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

fn steps(path: &Path) -> Vec<Step> {
    path.iter()
        .filter_map(|it| match it {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

fn show(at: &str, path: &[Step]) -> String {
    path.iter().fold(at.to_owned(), |text, step| match step {
        Step::Key(key) if text.is_empty() => key.clone(),
        Step::Key(key) => format!("{text}.{key}"),
        Step::Index(index) => format!("{text}[{index}]"),
    })
}

fn find<'a>(value: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.as_object_mut()?.get_mut(key),
        Step::Index(index) => value.as_array_mut()?.get_mut(*index),
    })
}

/// Takes out what does not read. A list goes as a whole, or the numbers of its items would be wrong from then on.
fn remove(value: &mut Value, path: &[Step]) -> bool {
    let Some(last) = path.iter().rposition(|it| matches!(it, Step::Key(_))) else { return false };
    let (parents, rest) = path.split_at(last);
    let Some(Step::Key(key)) = rest.first() else { return false };
    let parent = find(value, parents).and_then(Value::as_object_mut);
    parent.is_some_and(|it| it.shift_remove(key).is_some())
}

fn retype(value: &mut Value, path: &[Step]) {
    if let Some(place) = find(value, path)
        && let Value::String(text) = place
        && let Ok(typed) = crate::source::parse_value(text)
    {
        *place = typed;
    }
}

#[cfg(test)]
mod tests;
