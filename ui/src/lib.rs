//! The web console, embedded. Empty until the console issue; a build without it is a gateway without a console.
