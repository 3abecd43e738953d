use super::{MODEL_BYTES_MAX, check_name};

#[test]
fn a_name_that_climbs_out_of_its_path_or_has_no_end_is_no_models_name() {
    let long = "m".repeat(MODEL_BYTES_MAX + 1);
    for name in
        ["", "gemini-2.5-x/../gemini-3-pro", "..", "a/./b", "a\\..\\b", "a\nb", "a\u{0}", &long]
    {
        let error = check_name(name, "model").expect_err("no name");
        assert_eq!(error.param.as_deref(), Some("model"), "{name}");
        assert!(error.message.len() < 200, "a message does not repeat what is too long");
    }
    for name in ["openai/gpt-4o", "meta-llama/Llama-3.1-8B..v2", "a...b", "claude-3.5@2024"] {
        check_name(name, "model").expect("a name");
    }
}
