//! Running a plan: attempts, streams, and the one HTTP client.
