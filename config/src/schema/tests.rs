use std::path::PathBuf;

use super::{file, manual};

/// Rewrites a generated file where it must, and fails if it had to: commit what it wrote.
fn check(name: &str, generated: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if found != generated {
        std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        std::fs::write(&path, generated).expect("writes");
        panic!("docs/{name} was out of date and is rewritten: look at it and commit it");
    }
}

#[test]
fn the_schema_in_the_docs_is_that_of_the_types() {
    check(
        "config.schema.json",
        &format!("{}\n", serde_json::to_string_pretty(&file()).expect("json")),
    );
}

#[test]
fn the_manual_in_the_docs_is_made_of_the_types() {
    check("config.md", &manual());
}

#[test]
fn every_setting_is_explained() {
    fn walk(path: &str, schema: &serde_json::Value) {
        for (name, field) in
            schema.get("properties").and_then(|it| it.as_object()).into_iter().flatten()
        {
            let explained = field.get("description").or_else(|| field.get("$ref"));
            assert!(explained.is_some(), "{path}.{name} is not explained");
            walk(&format!("{path}.{name}"), field);
        }
    }
    let schema = file();
    walk("", &schema);
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        walk(name, definition);
    }
}
