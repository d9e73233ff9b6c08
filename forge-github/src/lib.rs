//! Single-use runners on GitHub: JIT registration, webhooks, scale sets and artifact proof.
