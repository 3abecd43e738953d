//! Administration: the routes under `/api`.

pub mod failure;
pub mod logs;
pub mod params;
pub mod records;
pub mod usage;
