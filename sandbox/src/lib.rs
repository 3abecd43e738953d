//! Code Mode's Python sandbox: frames and lock-down. Empty until the Code Mode issue; nothing uses it.
