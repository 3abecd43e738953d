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
}
