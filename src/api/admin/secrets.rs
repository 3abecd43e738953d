//! Secrets on their way into the law: sealed, allowed, or kept as they are.

use althing_config::Problem;
use althing_domain::digest::Digest;
use althing_domain::object::{Object, SecretPath};
use althing_domain::policy::KEY_BYTES_MIN;
use althing_domain::secret::{Form, SEALED_PREFIX, Secret};
use secrecy::{ExposeSecret, SecretString};

use super::Admin;
use super::call::Failure;
use crate::error::{Code, Error};
use crate::secret::Place;

/// The credential of a virtual key that is to be written.
#[derive(Default)]
pub(super) struct Credential {
    /// Its keyed hash. Absent: the key keeps what it has.
    pub(super) hash: Option<Digest>,
    /// The value, where it was made here and so must be shown.
    pub(super) made: Option<String>,
}

/// Seals what is given in clear in `object`, and refuses references that the node's file does not allow.
///
/// What `old` holds already stays as it is, so that writing the same again changes nothing.
pub(super) fn seal(
    admin: &Admin,
    object: &mut Object,
    old: Option<&Object>,
    problems: &mut Vec<Problem>,
) -> Result<(), Failure> {
    let kept = old.map(secrets_of).unwrap_or_default();
    let (kind, name) = (object.kind(), object.name().clone());
    let mut failed = None;
    object.visit_secrets(&mut |path, secret| {
        let was = kept.iter().find(|(it, _)| *it == path).map(|(_, it)| it);
        if was == Some(secret) {
            return;
        }
        let field = path.to_string();
        let place = Place { kind, name: name.as_str(), field: &field };
        match seal_one(admin, secret, was, &place) {
            Ok(Ok(sealed)) => *secret = sealed,
            Ok(Err(text)) => problems.push(Problem::new(field.replace('/', "."), text)),
            Err(error) => failed = Some(error),
        }
    });
    failed.map_or(Ok(()), |it| Err(Failure::from(it)))
}

/// The secret as it is stored, or what is wrong with it.
fn seal_one(
    admin: &Admin,
    secret: &Secret,
    was: Option<&Secret>,
    place: &Place<'_>,
) -> Result<Result<Secret, String>, Error> {
    Ok(match secret.form() {
        Form::Env(_) | Form::File(_) => check_reference(admin, secret).map(|()| secret.clone()),
        Form::Sealed(sealed) => match admin.law.open(sealed, place) {
            Some(value) => Ok(sealed_for(admin, value.expose_secret(), was, place)?),
            None => Err("this value was sealed by another cluster, or for another place than this: give the value itself"
                .to_owned()),
        },
        Form::Literal(value) => Ok(sealed_for(admin, value, was, place)?),
    })
}

/// `value` as it is stored at `place`: as it is there already, where it is the same.
fn sealed_for(
    admin: &Admin,
    value: &str,
    was: Option<&Secret>,
    place: &Place<'_>,
) -> Result<Secret, Error> {
    if let Some(was) = was.filter(|it| opens_to(admin, it, value, place)) {
        return Ok(was.clone());
    }
    let sealed = admin.law.seal(value, place)?;
    Ok(Secret::new(format!("{SEALED_PREFIX}{sealed}")))
}

fn check_reference(admin: &Admin, secret: &Secret) -> Result<(), String> {
    match secret.reference() {
        Some(reference) if !admin.allow.allows(reference) => Err(format!(
            "`{reference}` may not be referred to over the API: list it under `secrets.allow` in the node's file, or give the value itself"
        )),
        Some(_) | None => Ok(()),
    }
}

/// Whether a secret that is stored at `place` is sealed and holds `value`.
pub(super) fn opens_to(admin: &Admin, stored: &Secret, value: &str, place: &Place<'_>) -> bool {
    let Form::Sealed(sealed) = stored.form() else { return false };
    let opened = admin.law.open(sealed, place);
    opened.is_some_and(|it| {
        althing_storage::seal::is_same(it.expose_secret().as_bytes(), value.as_bytes())
    })
}

fn secrets_of(object: &Object) -> Vec<(SecretPath, Secret)> {
    let mut found = Vec::new();
    object.clone().visit_secrets(&mut |path, secret| found.push((path, secret.clone())));
    found
}

/// Takes the value out of a virtual key: its hash is what is stored. A key that is new and has none gets one.
pub(super) fn credential(
    admin: &Admin,
    object: &mut Object,
    old: Option<&Object>,
    problems: &mut Vec<Problem>,
) -> Result<Credential, Failure> {
    let Object::VirtualKey(key) = object else { return Ok(Credential::default()) };
    let value = std::sync::Arc::make_mut(key).value.take();
    match value {
        Some(value) => match given(admin, &value) {
            Ok(value) => {
                let hash = admin.law.hash(value.expose_secret().as_bytes());
                Ok(Credential { hash: Some(hash), made: None })
            }
            Err(text) => {
                problems.push(Problem::new("value", text));
                Ok(Credential::default())
            }
        },
        None if old.is_none() => make(admin),
        None => Ok(Credential::default()),
    }
}

/// Makes a new key.
pub(super) fn make(admin: &Admin) -> Result<Credential, Failure> {
    let token = admin.law.create_token(althing_storage::seal::KEY_PREFIX)?;
    let hash = admin.law.hash(token.as_bytes());
    Ok(Credential { hash: Some(hash), made: Some(token.as_str().to_owned()) })
}

/// The value that an administrator chose for a key, itself or by a reference.
pub(super) fn given(admin: &Admin, value: &Secret) -> Result<SecretString, String> {
    check_reference(admin, value)?;
    let value = admin.allow.resolve(value).map_err(|it| it.to_string())?;
    let text = value.expose_secret();
    if text.len() < KEY_BYTES_MIN {
        return Err(format!(
            "a key has at least {KEY_BYTES_MIN} characters: leave `value` out to get one that cannot be guessed"
        ));
    }
    if !text.bytes().all(|it| it.is_ascii_graphic()) {
        return Err(
            "a key is printable ASCII without blanks, so that it fits into a header".to_owned()
        );
    }
    Ok(value)
}

/// What the law refuses because of a value is said of the field.
pub(super) fn internal(what: &str) -> Failure {
    Error::new(Code::Internal, format!("{what}; the log of this node has the cause")).into()
}
