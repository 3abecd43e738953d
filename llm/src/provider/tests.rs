use std::collections::BTreeSet;

use althing_domain::policy::DialectName;

use super::{ALL, Auth, find};

#[test]
fn every_file_of_a_vendor_is_listed() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/provider");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("folder")
        .map(|it| it.expect("entry").path())
        .filter_map(|it| Some(it.file_stem()?.to_str()?.to_owned()))
        .filter(|it| it != "tests")
        .collect();
    let listed: BTreeSet<String> = ALL.iter().map(|it| it.name.to_owned()).collect();
    assert_eq!(files, listed);
}

#[test]
fn a_vendor_speaks_a_dialect_that_there_is_over_a_real_address() {
    for vendor in ALL {
        assert!(["openai", "anthropic", "gemini"].contains(&vendor.dialect), "{}", vendor.name);
        assert!(vendor.base_url.starts_with("http"), "{}", vendor.name);
        assert!(!vendor.base_url.ends_with('/'), "{}", vendor.name);
        if let Auth::Header(name) = vendor.auth {
            assert_eq!(name, name.to_lowercase());
        }
    }
}

#[test]
fn a_stated_dialect_wins_over_a_vendors_name() {
    assert_eq!(find("openai", None).base_url, "https://api.openai.com/v1");
    assert_eq!(find("openai", Some(DialectName::Anthropic)).dialect, "anthropic");
    assert_eq!(find("local", Some(DialectName::Gemini)).dialect, "gemini");
    assert!(find("local", Some(DialectName::OpenAi)).serves_any);
    assert!(!find("local", Some(DialectName::OpenAi)).has_responses);
    assert!(find("corp", Some(DialectName::Azure)).has_responses);
    assert_eq!(find("openai", Some(DialectName::Azure)).name, "azure");
    assert_eq!(find("mistral", Some(DialectName::OpenAi)).name, "mistral");
}

#[test]
fn azures_paths_follow_its_base_url() {
    let path =
        |base: &str, path: &str| find("azure", None).path(base, path, "my gpt/4o").into_owned();
    let host = "https://x.openai.azure.com";
    assert_eq!(path(&format!("{host}/openai/v1"), "/chat/completions"), "/chat/completions");
    assert_eq!(path(&format!("{host}/openai/v1/"), "/embeddings"), "/embeddings");
    let by_deployment = "/deployments/my%20gpt%2F4o/chat/completions?api-version=2024-10-21";
    assert_eq!(path(host, "/chat/completions"), format!("/openai{by_deployment}"));
    assert_eq!(path(&format!("{host}/openai"), "/chat/completions"), by_deployment);
    assert_eq!(path(host, "/responses"), "/openai/v1/responses");
    assert_eq!(find("openai", None).path("https://x", "/responses", "m"), "/responses");
}
