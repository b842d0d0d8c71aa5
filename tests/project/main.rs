//! What the repository promises about itself: its architecture, its interface, its README.

mod architecture;
mod proto_contract;
mod readme;
