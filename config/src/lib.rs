//! The configuration file: read, checked, explained, compared.
//!
//! [`load`] reads a file, then `ALTHING__SECTION__KEY` variables, then flags, and tells
//! everything that is wrong at once, each with its path and how to mend it. It knows
//! nothing of HTTP, of the cluster or of storage, so `althing check` needs no gateway.
//! This is the only crate that reads the environment.

mod load;
mod parse;
mod source;

pub mod diff;
pub mod env;
pub mod human;
pub mod schema;
pub mod secret_ref;
pub mod section;

pub use althing_domain::validate::Problem;
pub use load::{
    Config, Overrides, file_from_text, load, load_text, object_from_json, policy_from_json,
    policy_from_text,
};
pub use secret_ref::AllowList;
