//! The methods there are, so that labels and logs hold no name that a client made up.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{FileDescriptorSet, MethodDescriptorProto};

use super::error::ServerError;
use crate::proto;

/// What a method that does not exist is called.
const UNKNOWN: &str = "unknown";

/// Every method of this server, as `/package.Service/Method`.
#[derive(Debug)]
pub(super) struct Methods(BTreeSet<String>);

impl Methods {
    pub(super) fn read() -> Result<Self, ServerError> {
        let sets = [
            proto::DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let mut methods = BTreeSet::new();
        for set in sets {
            let set = FileDescriptorSet::decode(set)
                .map_err(|error| ServerError::Descriptors(error.to_string()))?;
            for file in set.file {
                let package = file.package();
                for service in &file.service {
                    let name = service.name();
                    let paths = service.method.iter().map(MethodDescriptorProto::name);
                    methods.extend(paths.map(|method| format!("/{package}.{name}/{method}")));
                }
            }
        }
        Ok(Self(methods))
    }

    /// The path of a request, if it leads somewhere.
    pub(super) fn name<'a>(&'a self, path: &str) -> &'a str {
        self.0.get(path).map_or(UNKNOWN, String::as_str)
    }
}
