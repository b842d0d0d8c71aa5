//! Tells systemd that the daemon is ready, and that it shuts down (`Type=notify`).

/// Notifies the service manager, where it asked for it.
#[derive(Debug)]
pub(super) struct Notifier {
    #[cfg(unix)]
    to: Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)>,
}

impl Notifier {
    /// Notifies the socket that `NOTIFY_SOCKET` names, if any.
    #[cfg(unix)]
    pub(super) fn of_environment() -> Self {
        let name = std::env::var_os("NOTIFY_SOCKET");
        let to = name.and_then(|name| {
            let socket = std::os::unix::net::UnixDatagram::unbound().ok()?;
            Some((socket, address(&name)?))
        });
        Self { to }
    }

    #[cfg(not(unix))]
    pub(super) fn of_environment() -> Self {
        Self {}
    }

    /// Sends a state; a listener that has gone away is no failure of ours.
    #[cfg(unix)]
    pub(super) fn say(&self, text: &str) {
        if let Some((socket, address)) = &self.to
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager was not notified");
        }
    }

    #[cfg(not(unix))]
    pub(super) fn say(&self, _: &str) {}
}

#[cfg(unix)]
fn address(name: &std::ffi::OsStr) -> Option<std::os::unix::net::SocketAddr> {
    use std::os::unix::{ffi::OsStrExt, net::SocketAddr};

    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name).ok();
    }
    SocketAddr::from_pathname(name).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_is_notified() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let notifier = Notifier { to: Some((socket, address(path.as_os_str()).unwrap())) };
        notifier.say("READY=1");
        let mut heard = [0; 16];
        let length = listener.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
    }
}
