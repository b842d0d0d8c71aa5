//! Which services there are.

use tonic::service::Routes;

use super::settings::ServerSettings;

/// The services with their limits on messages.
pub fn services(_settings: &ServerSettings) -> Routes {
    Routes::default()
}
