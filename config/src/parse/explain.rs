//! What serde says, in words that say how to mend it and that never repeat a value.

/// The longest part of a stranger's text that is repeated.
const CLIP: usize = 64;

pub(crate) struct Explained {
    pub(crate) text: String,
    pub(crate) unknown_field: Option<String>,
    pub(crate) missing_field: Option<String>,
}

pub(crate) fn explain(message: &str) -> Explained {
    let plain = |text| Explained { text, unknown_field: None, missing_field: None };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let names = quoted(rest);
        let field = names.first().copied().unwrap_or_default();
        let known = names.get(1..).unwrap_or_default();
        let text = format!("unknown field `{}`: {}", clip(field), instead(field, known));
        return Explained { unknown_field: Some(field.to_owned()), ..plain(text) };
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let names = quoted(rest);
        let given = names.first().copied().unwrap_or_default();
        let known = names.get(1..).unwrap_or_default();
        return plain(format!("`{}` is none of {}", clip(given), known.join(", ")));
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        let field = quoted(rest).first().copied().unwrap_or_default();
        return Explained {
            missing_field: Some(field.to_owned()),
            ..plain(format!("`{field}` is missing: give it"))
        };
    }
    for prefix in ["invalid type: ", "invalid value: ", "invalid length "] {
        if let Some(rest) = message.strip_prefix(prefix)
            && let Some((found, expected)) = rest.rsplit_once(", expected ")
        {
            return plain(format!("expected {}, found {}", expectation(expected), finding(found)));
        }
    }
    plain(message.to_owned())
}

/// The nearest of `known`, or all of them.
fn instead(given: &str, known: &[&str]) -> String {
    match nearest(given, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "leave it out".to_owned(),
        None => format!("the known ones are {}", known.join(", ")),
    }
}

/// The one of `known` that is most like `given`, where one is alike enough to be meant.
pub(crate) fn nearest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let given: String =
        given.chars().take(CLIP).collect::<String>().to_ascii_lowercase().replace('-', "_");
    let distances = known.iter().map(|it| (distance(&given, it), *it));
    let (distance, near) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= (given.len() / 3).max(2)).then_some(near)
}

/// How many letters must be added, taken away, changed or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut two_ago: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let change = last[j] + usize::from(from != to);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if 0 < i && 0 < j && *from == b[j - 1] && a[i - 1] == *to {
                best = best.min(two_ago[j - 1] + 1);
            }
            row.push(best);
        }
        two_ago = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// What was found, by its kind: a text may be a secret.
fn finding(found: &str) -> String {
    match found.split(' ').next().unwrap_or_default() {
        "string" | "character" => "a text".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a map".to_owned(),
        "null" | "unit" | "Option" => "nothing".to_owned(),
        "newtype" | "enum" | "struct" | "tuple" | "unit_variant" | "byte" => {
            "something else".to_owned()
        }
        // Numbers and booleans, as they were written.
        _ => clip(found),
    }
}

fn expectation(expected: &str) -> String {
    let kind = match expected {
        "a sequence" => "a list",
        "a string" | "string" => "a text",
        "a boolean" => "true or false",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below 0",
        it if it.starts_with("a nonzero") => "a whole number above 0",
        it if it.starts_with("struct ") || it.starts_with("internally tagged enum") => {
            "a map of fields"
        }
        it if it.starts_with("enum ") || it.starts_with("variant ") => "one of its words",
        it => it,
    };
    clip(kind)
}

fn clip(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(2 * CLIP).collect()
}
