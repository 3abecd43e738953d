//! A call's arguments, checked once, before anything is spent on it.

use serde_json::Value;
use serde_json::value::RawValue;

use super::catalog::ToolEntry;
use super::json::{Fault, strict};
use crate::error::{Code, Error};

/// Why arguments are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    /// Two readers may read them differently, or they are not JSON.
    #[error("the arguments are not taken: {0}")]
    Doubtful(Fault),
    /// Not an object.
    #[error("the arguments must be a JSON object")]
    NotObject,
    /// They do not fit the tool's schema.
    #[error("the arguments do not fit the tool's schema: `{path}`: {problem}")]
    Schema {
        /// Where, as a JSON pointer.
        path: String,
        /// What is wrong there.
        problem: String,
    },
}

impl Invalid {
    /// Where in the arguments, as a JSON pointer, if that is known.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Schema { path, .. } => path,
            Self::Doubtful(_) | Self::NotObject => "/",
        }
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        let code = match &invalid {
            Invalid::Doubtful(Fault::Syntax { .. } | Fault::NotObject) | Invalid::NotObject => {
                Code::InvalidField
            }
            Invalid::Doubtful(_) => Code::DuplicateField,
            Invalid::Schema { .. } => Code::ArgumentsInvalid,
        };
        let param = format!("arguments{}", invalid.path().trim_end_matches('/'));
        Self::new(code, invalid.to_string()).with_param(param)
    }
}

/// Whether `arguments` can be read one way only and fit `tool`'s schema. Absent ones are an empty object.
pub(crate) fn check(tool: &ToolEntry, arguments: Option<&RawValue>) -> Result<(), Invalid> {
    let value = strict(arguments.map_or("{}", RawValue::get)).map_err(Invalid::Doubtful)?;
    if !value.is_object() {
        return Err(Invalid::NotObject);
    }
    fits(tool, &value)
}

fn fits(tool: &ToolEntry, value: &Value) -> Result<(), Invalid> {
    tool.validate(value).map_err(|it| Invalid::Schema { path: it.path, problem: it.problem })
}
