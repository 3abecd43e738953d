//! Reading foreign JSON field by field, with the path of what is wrong.

use serde_json::{Map, Number, Value};

use crate::dialect::Error;

/// Parses a caller's body as an object.
pub(crate) fn body(bytes: &[u8]) -> Result<Fields, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(Fields { map, path: String::new(), snake: false }),
        Ok(_) => Err(field("body", "must be a JSON object")),
        Err(error) => Err(Error::Json { problem: error.to_string() }),
    }
}

/// An error at `field`.
pub(crate) fn field(field: impl Into<String>, problem: impl Into<String>) -> Error {
    Error::Field { field: field.into(), problem: problem.into() }
}

/// The same problem in an upstream's reply.
pub(crate) fn of_reply(error: Error) -> Error {
    match error {
        Error::Field { .. } | Error::Json { .. } => Error::Reply { problem: error.to_string() },
        other => other,
    }
}

/// An object that is taken apart: what was not taken is left over.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
    path: String,
    snake: bool,
}

impl Fields {
    /// The object at `path`.
    pub(crate) fn new(value: Value, path: impl Into<String>) -> Result<Self, Error> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Self { map, path, snake: false }),
            other => Err(field(path, format!("must be an object, but is {}", kind(&other)))),
        }
    }

    /// Accepts `snake_case` where `camelCase` is asked for, in this object and those taken from it.
    pub(crate) fn or_snake(mut self) -> Self {
        self.snake = true;
        self
    }

    /// The path of `key`.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// An error at `key`.
    pub(crate) fn wrong(&self, key: &str, problem: impl Into<String>) -> Error {
        field(self.at(key), problem)
    }

    /// Whether `key` is there, null or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key) || (self.snake && self.map.contains_key(&snake_case(key)))
    }

    /// Takes a value; null is none.
    pub(crate) fn any(&mut self, key: &str) -> Option<Value> {
        let mut value = self.map.shift_remove(key);
        if self.snake && value.is_none() {
            value = self.map.shift_remove(&snake_case(key));
        }
        value.filter(|value| !value.is_null())
    }

    /// Takes a value if it is so; leaves it otherwise.
    pub(crate) fn any_if(&mut self, key: &str, is: impl Fn(&Value) -> bool) -> Option<Value> {
        if self.map.get(key).is_some_and(is) { self.map.shift_remove(key) } else { None }
    }

    /// Takes a string.
    pub(crate) fn text(&mut self, key: &str) -> Result<Option<String>, Error> {
        match self.any(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mistyped(key, "a string", &other)),
        }
    }

    /// Takes a string that must be there.
    pub(crate) fn need_text(&mut self, key: &str) -> Result<String, Error> {
        self.text(key)?.ok_or_else(|| self.wrong(key, "is required, as a string"))
    }

    /// Takes a boolean.
    pub(crate) fn flag(&mut self, key: &str) -> Result<Option<bool>, Error> {
        match self.any(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(self.mistyped(key, "true or false", &other)),
        }
    }

    /// Takes a number, as written.
    pub(crate) fn number(&mut self, key: &str) -> Result<Option<Number>, Error> {
        match self.any(key) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number)),
            Some(other) => Err(self.mistyped(key, "a number", &other)),
        }
    }

    /// Takes a whole number; `40.0` is one.
    pub(crate) fn count(&mut self, key: &str) -> Result<Option<u64>, Error> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        match whole(&number).and_then(|number| u64::try_from(number).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(self.wrong(key, "must be a whole number, zero or more")),
        }
    }

    /// Takes a whole number that may be negative.
    pub(crate) fn integer(&mut self, key: &str) -> Result<Option<i64>, Error> {
        let Some(number) = self.number(key)? else { return Ok(None) };
        match whole(&number) {
            Some(integer) => Ok(Some(integer)),
            None => Err(self.wrong(key, "must be a whole number")),
        }
    }

    /// Takes a list.
    pub(crate) fn list(&mut self, key: &str) -> Result<Option<Vec<Value>>, Error> {
        match self.any(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.mistyped(key, "a list", &other)),
        }
    }

    /// Takes a list of strings.
    pub(crate) fn texts(&mut self, key: &str) -> Result<Vec<String>, Error> {
        let list = self.list(key)?.unwrap_or_default();
        let mut texts = Vec::with_capacity(list.len());
        for (at, value) in list.into_iter().enumerate() {
            match value {
                Value::String(text) => texts.push(text),
                other => return Err(self.mistyped(&format!("{key}[{at}]"), "a string", &other)),
            }
        }
        Ok(texts)
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, key: &str) -> Result<Option<Self>, Error> {
        match self.any(key) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { map, path: self.at(key), snake: self.snake }))
            }
            Some(other) => Err(self.mistyped(key, "an object", &other)),
        }
    }

    /// What is left.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    fn mistyped(&self, key: &str, wanted: &str, is: &Value) -> Error {
        self.wrong(key, format!("must be {wanted}, but is {}", kind(is)))
    }
}

/// A number without a fraction. JSON writers of some languages put `.0` behind every number.
fn whole(number: &Number) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53: beyond it a float skips integers.
    if let Some(integer) = number.as_i64() {
        return Some(integer);
    }
    let float = number.as_f64()?;
    if float.fract() != 0.0 || float.abs() > EXACT_MAX {
        return None;
    }
    format!("{float:.0}").parse().ok()
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `inlineData` as `inline_data`.
pub(crate) fn snake_case(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// A value as JSON text. Values are trees of strings and numbers, whose writing cannot fail.
pub(crate) fn write(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests;
