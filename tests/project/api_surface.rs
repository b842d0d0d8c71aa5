//! The whole surface of `proto/keystep/v1`, held by a file that may only grow: what clients were
//! promised is neither renamed, renumbered, retyped nor taken away.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panics")]

use std::{collections::BTreeSet, env, fs};

use keystep::proto::DESCRIPTOR_SET;
use prost_reflect::{
    Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/project/api_surface.txt");
const UPDATE: &str = "UPDATE_REFERENCE";

#[test]
fn the_api_only_grows() {
    let now = surface();
    let before = fs::read_to_string(SNAPSHOT).unwrap_or_default();
    let before = before.lines().map(str::to_owned).collect();
    let changes = Changes::between(&before, &now);
    assert!(
        changes.gone.is_empty(),
        "clients were promised what is changed or gone:\n{}\nbring it back, and give what is new \
         another name and number; a field that is of no more use stays, marked deprecated",
        changes.gone.join("\n")
    );
    if env::var_os(UPDATE).is_some() {
        let lines = now.into_iter().collect::<Vec<_>>().join("\n");
        return fs::write(SNAPSHOT, lines + "\n").unwrap();
    }
    assert!(
        changes.new.is_empty(),
        "new in the API, and from now on promised:\n{}\nrun {UPDATE}=1 cargo test --test project \
         api_surface, and commit tests/project/api_surface.txt",
        changes.new.join("\n")
    );
}

#[test]
fn changes_and_additions_differ() {
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = lines("A.a = 1 string\nA.b = 2 uint32");
    let found = Changes::between(&before, &lines("A.a = 1 string\nA.b = 2 uint32\nA.c = 3 bool"));
    assert!(found.gone.is_empty());
    assert_eq!(found.new, ["A.c = 3 bool"]);
    for changed in
        ["A.a = 1 string", "A.a = 1 string\nA.b = 3 uint32", "A.a = 1 string\nA.b = 2 uint64"]
    {
        assert_eq!(Changes::between(&before, &lines(changed)).gone, ["A.b = 2 uint32"]);
    }
}

#[test]
fn every_kind_of_element_is_on_the_surface() {
    let now = surface();
    for line in [
        "UnlearningService.UnlearnConcept(UnlearnConceptRequest) returns (google.longrunning.Operation)",
        "UnlearningService.Generate(GenerateRequest) returns (stream GenerateResponse)",
        "UnlearnConceptRequest.request_id = 1 string",
        "UnlearnConceptRequest.seed = 6 optional uint64",
        "UnlearnConceptRequest.window = 10 LogSnrWindow of window_source",
        "UnlearnConceptRequest.replacements = 11 map<string, string>",
        "UnlearnConceptRequest.output_formats = 19 repeated OutputFormat",
        "JobState.JOB_STATE_QUEUED = 1",
    ] {
        assert!(now.contains(line), "{line} is not in\n{now:#?}");
    }
}

struct Changes {
    gone: Vec<String>,
    new: Vec<String>,
}

impl Changes {
    fn between(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Self {
        Self {
            gone: before.difference(now).cloned().collect(),
            new: now.difference(before).cloned().collect(),
        }
    }
}

/// A line for each method, field and value of the package.
fn surface() -> BTreeSet<String> {
    let pool = DescriptorPool::decode(DESCRIPTOR_SET).expect("the build's own descriptor set");
    let ours = |package: &str| package == "keystep.v1";
    let services = pool.services().filter(|each| ours(each.package_name()));
    let methods = services.flat_map(|each| each.methods().collect::<Vec<_>>());
    let messages = pool.all_messages().filter(|each| ours(each.package_name()));
    // The entries of maps are no messages that anybody sees.
    let messages = messages.filter(|each| !each.is_map_entry());
    let fields =
        messages.flat_map(|message: MessageDescriptor| message.fields().collect::<Vec<_>>());
    let enums = pool.all_enums().filter(|each| ours(each.package_name()));
    let values = enums.flat_map(|each| {
        let name = each.name().to_owned();
        let line = |value: prost_reflect::EnumValueDescriptor| {
            format!("{name}.{} = {}", value.name(), value.number())
        };
        each.values().map(line).collect::<Vec<_>>()
    });
    methods.map(|each| method(&each)).chain(fields.map(|each| field(&each))).chain(values).collect()
}

fn method(method: &MethodDescriptor) -> String {
    let stream = |is_stream| if is_stream { "stream " } else { "" };
    format!(
        "{}.{}({}{}) returns ({}{})",
        method.parent_service().name(),
        method.name(),
        stream(method.is_client_streaming()),
        short(method.input().full_name()),
        stream(method.is_server_streaming()),
        short(method.output().full_name()),
    )
}

fn field(field: &FieldDescriptor) -> String {
    let message = field.parent_message();
    let of = field.containing_oneof().filter(|oneof| !oneof.is_synthetic());
    let label = match field.cardinality() {
        Cardinality::Repeated if !field.is_map() => "repeated ",
        Cardinality::Optional if field.supports_presence() && is_scalar(field) && of.is_none() => {
            "optional "
        }
        _ => "",
    };
    let of = of.map(|oneof| format!(" of {}", oneof.name())).unwrap_or_default();
    format!("{}.{} = {} {label}{}{of}", message.name(), field.name(), field.number(), kind(field))
}

fn is_scalar(field: &FieldDescriptor) -> bool {
    !matches!(field.kind(), Kind::Message(_))
}

fn kind(field: &FieldDescriptor) -> String {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => {
            let part = |number| entry.get_field(number).map(|part| kind(&part)).unwrap_or_default();
            format!("map<{}, {}>", part(1), part(2))
        }
        Kind::Message(message) => short(message.full_name()).to_owned(),
        Kind::Enum(each) => short(each.full_name()).to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("keystep.v1.").unwrap_or(name)
}
