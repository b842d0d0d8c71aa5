//! The methods there are, so that labels and logs hold no name that a client made up.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

use super::error::ServerError;
use crate::proto;

/// What a method that does not exist is called.
const UNKNOWN: &str = "unknown";

/// Every method of this server, as `/package.Service/Method`.
#[derive(Debug)]
pub(super) struct Methods {
    all: BTreeSet<String>,
    /// Those that take a stream of messages.
    client_streaming: BTreeSet<String>,
}

impl Methods {
    pub(super) fn read() -> Result<Self, ServerError> {
        let sets = [
            proto::DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let (mut all, mut client_streaming) = (BTreeSet::new(), BTreeSet::new());
        for set in sets {
            let set = FileDescriptorSet::decode(set)
                .map_err(|error| ServerError::Descriptors(error.to_string()))?;
            for file in set.file {
                let package = file.package();
                for service in &file.service {
                    let name = service.name();
                    for method in &service.method {
                        let path = format!("/{package}.{name}/{}", method.name());
                        if method.client_streaming() {
                            client_streaming.insert(path.clone());
                        }
                        all.insert(path);
                    }
                }
            }
        }
        Ok(Self { all, client_streaming })
    }

    /// The path of a request, if it leads somewhere.
    pub(super) fn name<'a>(&'a self, path: &str) -> &'a str {
        self.all.get(path).map_or(UNKNOWN, String::as_str)
    }

    /// Whether a method takes one message.
    pub(super) fn takes_one_message(&self, path: &str) -> bool {
        !self.client_streaming.contains(path)
    }
}
