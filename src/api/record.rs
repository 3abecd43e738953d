//! `x-althing-record: off`: what a caller may ask of the record of its call.

use http::{HeaderMap, HeaderName};

use crate::control::view::KeyView;
use crate::error::{Code, Error};
use crate::gateway::Gateway;

const RECORD: HeaderName = HeaderName::from_static("x-althing-record");

/// Whether the record of this request's calls keeps nothing of what was said (docs/decisions/0015).
///
/// # Errors
///
/// [`Code::InvalidHeader`] for another value than `off`; [`Code::Forbidden`] where the key may not ask for it.
pub fn is_off(gateway: &Gateway, headers: &HeaderMap, key: &KeyView) -> Result<bool, Error> {
    if !headers.contains_key(RECORD) {
        return Ok(false);
    }
    wanted(headers, key).map(|()| true).inspect_err(|it| gateway.refused(it))
}

fn wanted(headers: &HeaderMap, key: &KeyView) -> Result<(), Error> {
    let mut values = headers.get_all(RECORD).iter();
    if values.next().is_none_or(|it| it != "off") || values.next().is_some() {
        let text = "`x-althing-record` must be `off`, and stand once: leave it out to have the call recorded as usual";
        return Err(Error::new(Code::InvalidHeader, text).with_param("x-althing-record"));
    }
    if key.record_opt_out {
        return Ok(());
    }
    let text = format!(
        "`record_opt_out` of the virtual key `{}` does not allow `x-althing-record: off`: leave the header out, or have \
         an administrator set `record_opt_out: true`",
        key.name
    );
    Err(Error::new(Code::Forbidden, text).with_param("x-althing-record"))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::wanted;
    use crate::control::view::KeyView;
    use crate::error::Code;

    fn asked(values: &[&str], may: bool) -> Result<(), (Code, String)> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-althing-record", value.parse().expect("a value"));
        }
        let mut key = KeyView::anonymous();
        key.record_opt_out = may;
        wanted(&headers, &key).map_err(|it| (it.code, it.message.into_owned()))
    }

    #[test]
    fn only_off_and_only_once_is_a_wish_and_only_of_who_may() {
        assert_eq!(asked(&["off"], true), Ok(()));
        for values in [&["on"][..], &["Off"], &[""], &["off", "off"], &["off, off"], &["off", "x"]]
        {
            let (code, text) = asked(values, true).expect_err("no wish");
            assert_eq!(code, Code::InvalidHeader, "{values:?}");
            assert!(text.contains("`x-althing-record`"), "{text}");
        }
        let (code, text) = asked(&["off"], false).expect_err("may not");
        assert_eq!(code, Code::Forbidden);
        for part in ["`record_opt_out`", "`anonymous`", "`record_opt_out: true`"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
