//! The listener: TLS, layers, health, reflection.
