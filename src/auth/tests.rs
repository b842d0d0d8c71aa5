//! From a token file to a caller.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::jobs::{Clock, Principal};

const HOUR: i64 = 3_600_000_000;
const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

struct Folder {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    fn with(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, text).unwrap();
        Self { _folder: folder, path }
    }
}

fn certificate(uris: &[&str], common: &[&str], dns: &[&str]) -> Arc<CertificateNames> {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Arc::new(CertificateNames { uris: owned(uris), common: owned(common), dns: owned(dns) })
}

fn new_token(principal: &str, requests_per_second: Option<f64>) -> NewToken {
    NewToken::generate(&TokenGrant {
        principal: principal.to_owned(),
        roles: BTreeSet::from([Role::Read, Role::Submit]),
        queued_jobs: Some(7),
        highest_priority: None,
        requests_per_second,
    })
    .unwrap()
}

fn call(authenticator: &Authenticator, token: &str) -> Result<String, Refusal> {
    let authorization = format!("Bearer {token}");
    let presented = Presented {
        authorization: Some(authorization.as_bytes()),
        address: HERE,
        ..Presented::default()
    };
    authenticator.authenticate(&presented).map(|caller| caller.principal.0)
}

#[tokio::test]
async fn a_token_gives_its_caller_and_no_other_does() {
    let (ci, painter) = (new_token("ci", None), new_token("painter \"2\"", None));
    assert_ne!(ci.token, painter.token);
    assert!(!format!("{ci:?}").contains(&ci.token) && !ci.entry.contains(&ci.token));
    let folder = Folder::with(&format!("{}\n{}", ci.entry, painter.entry));
    let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
    let with = |authorization: String| {
        let presented =
            Presented { authorization: Some(authorization.as_bytes()), ..Presented::default() };
        authenticator.authenticate(&presented)
    };
    let caller = with(format!("bearer {}", painter.token)).unwrap();
    assert_eq!(caller.principal, Principal("painter \"2\"".to_owned()));
    assert!(caller.may(Role::Submit) && !caller.may(Role::Generate) && !caller.may(Role::Admin));
    assert_eq!((caller.queued_jobs, caller.sees()), (Some(7), Some(&caller.principal)));
    assert_eq!(with(format!("Bearer {}", ci.token)).unwrap().principal.0, "ci");

    let short = &ci.token[..ci.token.len() - 1];
    for wrong in [
        String::new(),
        "Bearer ".to_owned(),
        "Bea".to_owned(),
        ci.token.clone(),
        format!("Basic {}", ci.token),
        format!("Bearer {short}"),
        format!("Bearer {}x", ci.token),
        format!("Bearer {}", "x".repeat(100_000)),
        format!("Bearer {}", ci.entry.split('"').nth(1).unwrap()),
    ] {
        assert_eq!(with(wrong), Err(Refusal::Unauthenticated));
    }
    let nothing = Presented::default();
    assert_eq!(authenticator.authenticate(&nothing), Err(Refusal::Unauthenticated));
    assert_eq!(Authenticator::none().authenticate(&nothing), Ok(Caller::local()));
}

#[tokio::test]
async fn a_token_expires_and_a_certificate_is_known_by_any_of_its_names() {
    let token = new_token("ci", None);
    let text = format!(
        "{}expires = 1970-01-01T01:00:00+00:00\n[[certificate]]\nname = \"spiffe://x/painter\"\n\
         principal = \"painter\"\nroles = [\"generate\"]\n",
        token.entry
    );
    let folder = Folder::with(&text);
    let micros = Arc::new(AtomicI64::new(HOUR - 1));
    let clock = Clock::Manual(Arc::clone(&micros));
    let authenticator = Authenticator::from_file(&folder.path, clock).await.unwrap();
    assert_eq!(call(&authenticator, &token.token).unwrap(), "ci");
    micros.store(HOUR, Ordering::SeqCst);
    assert_eq!(call(&authenticator, &token.token), Err(Refusal::Unauthenticated));

    let names = |names: &[&str]| {
        let presented = Presented { names: certificate(&[], names, &[]), ..Presented::default() };
        authenticator.authenticate(&presented).map(|caller| caller.principal.0)
    };
    assert_eq!(names(&["Painter", "spiffe://x/painter"]).unwrap(), "painter");
    assert_eq!(names(&["Painter"]), Err(Refusal::Unauthenticated));
}

#[tokio::test(start_paused = true)]
async fn a_principal_is_limited_and_recovers() {
    let first = new_token("ci", Some(2.0));
    let second = new_token("ci", Some(2.0));
    let other = new_token("other", None);
    let folder = Folder::with(&format!("{}{}{}", first.entry, second.entry, other.entry));
    let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
    call(&authenticator, &first.token).unwrap();
    call(&authenticator, &second.token).unwrap();
    let Err(Refusal::TooManyRequests { retry_after, .. }) = call(&authenticator, &first.token)
    else {
        panic!("the third call at once passed")
    };
    for _ in 0..50 {
        call(&authenticator, &other.token).unwrap();
    }
    tokio::time::advance(retry_after).await;
    call(&authenticator, &second.token).unwrap();
    call(&authenticator, &second.token).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn guessing_is_slow_and_locks_out_nobody_who_is_known() {
    let (known, late) = (new_token("known", None), new_token("late", None));
    let folder = Folder::with(&format!("{}{}", known.entry, late.entry));
    let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
    call(&authenticator, &known.token).unwrap();
    let refused = (0..100).map(|_| call(&authenticator, "guess").unwrap_err());
    let slowed = refused.filter(|error| matches!(error, Refusal::TooManyFailures { .. })).count();
    assert_eq!(slowed, 80);
    call(&authenticator, &known.token).unwrap();
    // A right guess, now, is no better than a wrong one.
    let Err(Refusal::TooManyFailures { retry_after }) = call(&authenticator, &late.token) else {
        panic!("a right guess passed")
    };
    tokio::time::advance(retry_after).await;
    call(&authenticator, &late.token).unwrap();
}

#[tokio::test]
async fn a_changed_file_counts_and_a_bad_one_does_not() {
    let (old, new) = (new_token("old", None), new_token("new", None));
    let folder = Folder::with(&old.entry);
    let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
    assert_eq!(authenticator.reload().await.unwrap(), Reloaded::Unchanged);
    std::fs::write(&folder.path, "token = 3").unwrap();
    let error = authenticator.reload().await.unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
    assert_eq!(call(&authenticator, &old.token).unwrap(), "old");
    std::fs::remove_file(&folder.path).unwrap();
    authenticator.reload().await.unwrap_err();
    assert_eq!(call(&authenticator, &old.token).unwrap(), "old");

    let stop = tokio_util::sync::CancellationToken::new();
    let follow = authenticator.follow(Duration::from_millis(1), stop.clone());
    let change = async {
        std::fs::write(&folder.path, &new.entry).unwrap();
        while call(&authenticator, &new.token).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(follow, change);
    assert_eq!(call(&authenticator, &old.token), Err(Refusal::Unauthenticated));
}

#[test]
fn an_entry_may_name_the_highest_priority() {
    let named = |name: &str| CertificateNames {
        common: vec![name.to_owned()],
        uris: Vec::new(),
        dns: Vec::new(),
    };
    let hash = "0".repeat(64);
    let entry = format!(
        "[[token]]\nsha256 = \"{hash}\"\nprincipal = \"a\"\nroles = [\"submit\"]\n\
         highest_priority = -5\n[[certificate]]\nname = \"b\"\nprincipal = \"b\"\nroles = [\"submit\"]\n"
    );
    let table = table::Table::parse(&entry).unwrap_or_else(|error| panic!("{error}"));
    let certificate = table.of_certificate(&named("b")).unwrap();
    assert_eq!(certificate.grant.caller.highest_priority, None);
    let with = entry.replace("name = \"b\"", "name = \"b\"\nhighest_priority = 7");
    let table = table::Table::parse(&with).unwrap_or_else(|error| panic!("{error}"));
    let certificate = table.of_certificate(&named("b")).unwrap();
    assert_eq!(certificate.grant.caller.highest_priority, Some(7));
}

#[test]
fn a_bad_file_is_explained_and_never_quoted() {
    let hash = "0".repeat(64);
    let entry = |rest: &str| format!("[[token]]\nsha256 = \"{hash}\"\n{rest}");
    let one = "principal = \"a\"\nroles = [\"read\"]\n";
    for (text, wanted) in [
        ("[[token]]\ntoken = \"secret\"".to_owned(), "line 2"),
        ("[[token]]\nsha256 = secret".to_owned(), "line 2"),
        (format!("[[token]]\nsha256 = \"secret\"\n{one}"), "sha256 of token 1"),
        (format!("[[token]]\nsha256 = \"{}\"\n{one}", "é".repeat(32)), "sha256 of token 1"),
        (format!("{}{}", entry(one), entry(one)), "tokens 1 and 2"),
        (entry("principal = \"\"\nroles = [\"read\"]"), "principal \"\""),
        (entry("principal = \"a\"\nroles = []"), "has no role"),
        (entry("principal = \"a\"\nroles = [\"root\"]"), "line 4"),
        (entry(&format!("{one}requests_per_second = 0.0")), "above 0"),
        (entry(&format!("{one}requests_per_second = nan")), "above 0"),
        (entry(&format!("{one}burst = 3")), "burst"),
        (entry(&format!("{one}expires = 2027-01-01")), "expires of token 1"),
    ] {
        let error =
            table::Table::parse(&text).err().map_or(String::new(), |error| error.to_string());
        assert!(error.contains(wanted), "{error:?} of {text:?} lacks {wanted:?}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn without_a_token_file_a_certificates_name_is_the_principal() {
    let roles = BTreeSet::from([Role::Read, Role::Submit]);
    let authenticator = Authenticator::from_certificates(roles.clone());
    let caller = |names| {
        authenticator.authenticate(&Presented { names, address: HERE, ..Presented::default() })
    };
    let (ann, ben) = (certificate(&[], &["ann"], &[]), certificate(&[], &["ben"], &[]));
    let found = caller(ann).unwrap();
    assert_eq!((found.principal.0.as_str(), &found.roles), ("ann", &roles));
    assert_eq!(found.sees(), Some(&found.principal), "it sees its own alone");
    assert_ne!(caller(ben).unwrap().principal, found.principal);
    for (names, principal) in [
        (certificate(&["spiffe://x/ann"], &["ann"], &["ann.example"]), "spiffe://x/ann"),
        (certificate(&[], &["ann"], &["ann.example", "b.example"]), "ann.example"),
    ] {
        assert_eq!(caller(names).unwrap().principal.0, principal);
    }
    for nameless in [certificate(&[], &[], &[]), certificate(&[], &["a\nb"], &[])] {
        assert_eq!(caller(nameless), Err(Refusal::Unauthenticated));
    }
    // A token was guessed: there is none to know.
    let names = certificate(&[], &["ann"], &[]);
    let presented = Presented { authorization: Some(b"Bearer x"), names, address: HERE };
    assert_eq!(authenticator.authenticate(&presented), Err(Refusal::Unauthenticated));
    let [allowance] = authenticator.allowances().try_into().unwrap();
    assert_eq!((allowance.who, allowance.roles), (Who::EachCertificate, roles));
}

#[tokio::test(start_paused = true)]
async fn strangers_are_slowed_and_hinder_nobody_with_credentials() {
    let known = new_token("known", None);
    let folder = Folder::with(&known.entry);
    let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
    let nothing = Presented { address: HERE, ..Presented::default() };
    let refused = (0..100).map(|_| authenticator.authenticate(&nothing).unwrap_err());
    let slowed = refused.filter(|error| matches!(error, Refusal::TooManyFailures { .. })).count();
    assert_eq!(slowed, 80);
    call(&authenticator, &known.token).unwrap();
}

/// The watch over a call that the token let in.
fn watch(authenticator: &Authenticator, token: &str) -> CallerWatch {
    let authorization = format!("Bearer {token}");
    let presented =
        Presented { authorization: Some(authorization.as_bytes()), ..Presented::default() };
    let caller = authenticator.authenticate(&presented).unwrap();
    authenticator.watch(&presented, &caller).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_that_goes_on_ends_with_what_it_was_allowed_by() {
    let (token, other) = (new_token("ci", None), new_token("other", None));
    let less = token.entry.replace("\"submit\"", "\"generate\"");
    assert_ne!(less, token.entry);
    let another = token.entry.replace("\"ci\"", "\"cd\"");
    let more = token.entry.replace("\"submit\"", "\"submit\", \"admin\"");
    for (text, wanted) in [
        (other.entry.clone(), Some(Refusal::Revoked)),
        (another, Some(Refusal::Revoked)),
        (less, Some(Refusal::RoleLost { role: Role::Submit })),
        (more, None),
        (format!("{}{}", token.entry, other.entry), None),
        ("no table".to_owned(), None),
    ] {
        let folder = Folder::with(&token.entry);
        let authenticator = Authenticator::from_file(&folder.path, Clock::System).await.unwrap();
        let mut watch = watch(&authenticator, &token.token);
        let hour = Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, watch.revoked()).await.is_err(), "nothing changed");
        std::fs::write(&folder.path, &text).unwrap();
        let _ = authenticator.reload().await;
        let revoked = tokio::time::timeout(hour, watch.revoked()).await.ok();
        assert_eq!(revoked, wanted, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_its_tokens_end_by_a_minute_at_most() {
    let token = new_token("ci", None);
    let folder = Folder::with(&format!("{}expires = 1970-01-01T01:00:00Z\n", token.entry));
    let micros = Arc::new(AtomicI64::new(0));
    let clock = Clock::Manual(Arc::clone(&micros));
    let authenticator = Authenticator::from_file(&folder.path, clock).await.unwrap();
    let mut watch = watch(&authenticator, &token.token);
    let day = Duration::from_hours(24);
    assert!(tokio::time::timeout(day, watch.revoked()).await.is_err(), "the clock stands still");
    micros.store(HOUR, Ordering::SeqCst);
    let minute = Duration::from_secs(61);
    assert_eq!(tokio::time::timeout(minute, watch.revoked()).await.unwrap(), Refusal::Revoked);
}
