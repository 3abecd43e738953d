use super::{FLAT_BYTES_MAX, flat};

#[test]
fn a_name_that_fits_is_left_alone() {
    assert_eq!(flat("filesystem", "read_file"), "filesystem-read_file");
    let longest = "a".repeat(FLAT_BYTES_MAX - 2);
    assert_eq!(flat("s", &longest), format!("s-{longest}"));
}

#[test]
fn a_changed_name_is_marked_with_a_hash_and_stays_unique() {
    let dotted = flat("crm", "contacts.list");
    let slashed = flat("crm", "contacts/list");
    assert!(dotted.starts_with("crm-contacts_list_"), "{dotted}");
    assert_ne!(dotted, slashed);
    assert_eq!(dotted.len(), "crm-contacts_list_".len() + 8);
}

#[test]
fn every_name_fits_what_vendors_take() {
    for tool in ["", "ä", "日本語", "a b", "\u{0}\n", &"x".repeat(500), &"é".repeat(300)] {
        let name = flat("server", tool);
        assert!(name.len() <= FLAT_BYTES_MAX, "{name}");
        assert!(
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'),
            "{name}"
        );
    }
}
