//! The money ledger: what was spent, and which node holds which slice of what is left.
//!
//! A node admits requests against its *lease* without asking anybody; this ledger only
//! hands out slices and hears what became of them. All figures of a lease are cumulative
//! and only grow, so a lost, late or repeated message changes nothing. The one invariant:
//!
//! > settled + the outstanding of all open leases <= limit
//!
//! Every step keeps it: a grant is at most what is left, a report moves money from
//! outstanding to settled, a return lowers outstanding, a write-off settles all that is
//! outstanding, and a refund lowers settled. Nothing here trusts a clock for it.

mod account;
mod id;
mod lease;
mod window;

pub use account::{Account, LeaseView, View};
pub use id::{BudgetId, Level, Owner};
pub use lease::{Ask, Grant, Lease, LeaseState};
pub use window::{Window, is_time_zone};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
