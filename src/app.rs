//! The composition root: the only place that builds adapters and joins the parts.
