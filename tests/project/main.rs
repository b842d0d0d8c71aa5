//! What the repository promises about itself: its architecture, its interface, its README.

mod api_surface;
mod architecture;
mod proto_contract;
mod readme;
