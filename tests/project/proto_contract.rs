//! What a reader of the API may count on, as tests over the descriptor set that the build makes:
//! everything has a comment, and names follow the style guide.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeMap;

use keystep::proto::DESCRIPTOR_SET;
use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

const PACKAGE: &str = "keystep.v1";
/// Long-running calls answer with the standard's `Operation` (AIP-151).
const OPERATION: &str = ".google.longrunning.Operation";
// Field numbers of the descriptors' own messages, of which a location's path is made.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const FILE_SERVICE: i32 = 6;
const MEMBER: i32 = 2;

#[test]
fn every_part_of_the_api_is_explained_and_named_in_style() {
    let files = our_files();
    assert!(files.len() >= 2, "the descriptor set lacks our files");
    let found: Vec<_> = files.iter().flat_map(lint).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_lint_finds_what_it_is_for() {
    let break_it = |spoil: &dyn Fn(&mut FileDescriptorProto)| {
        let mut file = our_files().pop().expect("a file");
        spoil(&mut file);
        lint(&file).join("\n")
    };
    assert!(break_it(&|file| file.source_code_info = None).contains("has no comment"));
    assert!(break_it(&|file| file.name = Some("keystep/service.proto".into())).contains("folder"));
    assert!(break_it(&|file| file.package = Some("keystep".into())).contains("package"));
    let found =
        break_it(&|file| file.enum_type[0].value[0].name = Some("CONCEPT_KIND_NONE".into()));
    assert!(found.contains("UNSPECIFIED"), "{found}");
    let found = break_it(&|file| file.enum_type[0].value[1].name = Some("NUDITY".into()));
    assert!(found.contains("NUDITY"), "{found}");
    let found =
        break_it(&|file| file.service[0].method[2].input_type = Some(".keystep.v1.X".into()));
    assert!(found.contains("Request"), "{found}");
    let found =
        break_it(&|file| file.service[0].method[2].output_type = Some(".keystep.v1.X".into()));
    assert!(found.contains("Response"), "{found}");
}

fn our_files() -> Vec<FileDescriptorProto> {
    let set = FileDescriptorSet::decode(DESCRIPTOR_SET).expect("the build's own descriptor set");
    set.file.into_iter().filter(|file| file.package().starts_with("keystep")).collect()
}

/// Everything in a file that breaks the rules, a line each.
fn lint(file: &FileDescriptorProto) -> Vec<String> {
    let mut lint =
        Lint { file: file.name().to_owned(), comments: comments(file), found: Vec::new() };
    if file.package() != PACKAGE {
        lint.report(file.package(), "is not the package keystep.v1");
    }
    if !file.name().starts_with("keystep/v1/") {
        lint.report(file.name(), "is not in the folder of its package");
    }
    for (index, message) in (0..).zip(&file.message_type) {
        lint.message(message, &[FILE_MESSAGE, index]);
    }
    for (index, each) in (0..).zip(&file.enum_type) {
        lint.enumeration(each, &[FILE_ENUM, index]);
    }
    for (index, service) in (0..).zip(&file.service) {
        lint.service(service, &[FILE_SERVICE, index]);
    }
    lint.found
}

struct Lint {
    file: String,
    comments: BTreeMap<Vec<i32>, String>,
    found: Vec<String>,
}

impl Lint {
    fn report(&mut self, name: &str, what: &str) {
        self.found.push(format!("{}: {name} {what}", self.file));
    }

    fn commented(&mut self, name: &str, path: &[i32]) {
        if self.comments.get(path).is_none_or(|comment| comment.trim().is_empty()) {
            self.report(name, "has no comment");
        }
    }

    fn message(&mut self, message: &DescriptorProto, path: &[i32]) {
        self.commented(message.name(), path);
        for (index, field) in (0..).zip(&message.field) {
            let name = format!("{}.{}", message.name(), field.name());
            self.commented(&name, &[path, &[MEMBER, index]].concat());
            if field.name() != field.name().to_lowercase() {
                self.report(&name, "is not in lower_snake_case");
            }
        }
        for (index, oneof) in (0..).zip(&message.oneof_decl) {
            // An `optional` field hides in a oneof of the compiler's own.
            if !oneof.name().starts_with('_') {
                let name = format!("{}.{}", message.name(), oneof.name());
                self.commented(&name, &[path, &[8, index]].concat());
            }
        }
    }

    fn enumeration(&mut self, each: &EnumDescriptorProto, path: &[i32]) {
        self.commented(each.name(), path);
        let prefix = upper_snake(each.name());
        for (index, value) in (0..).zip(&each.value) {
            self.commented(value.name(), &[path, &[MEMBER, index]].concat());
            if !value.name().starts_with(&format!("{prefix}_")) {
                self.report(value.name(), &format!("does not begin with {prefix}_"));
            }
            if value.number() == 0 && value.name() != format!("{prefix}_UNSPECIFIED") {
                self.report(value.name(), &format!("is 0 and not {prefix}_UNSPECIFIED"));
            }
        }
    }

    fn service(&mut self, service: &ServiceDescriptorProto, path: &[i32]) {
        self.commented(service.name(), path);
        if !service.name().ends_with("Service") {
            self.report(service.name(), "does not end in Service");
        }
        for (index, method) in (0..).zip(&service.method) {
            let name = method.name();
            self.commented(name, &[path, &[MEMBER, index]].concat());
            if method.input_type() != format!(".{PACKAGE}.{name}Request") {
                self.report(name, &format!("does not take {name}Request"));
            }
            let answers = [OPERATION.to_owned(), format!(".{PACKAGE}.{name}Response")];
            if !answers.iter().any(|answer| answer == method.output_type()) {
                self.report(name, &format!("does not answer with {name}Response or Operation"));
            }
        }
    }
}

fn comments(file: &FileDescriptorProto) -> BTreeMap<Vec<i32>, String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .map(|location| (location.path.clone(), location.leading_comments().to_owned()))
        .collect()
}

fn upper_snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_uppercase());
    }
    snake
}
