//! Tokens, from the wire to the service.

use std::collections::BTreeSet;

use tonic_types::StatusExt;

use super::*;

fn new_token(principal: &str, roles: &[Role], requests_per_second: Option<f64>) -> NewToken {
    NewToken::generate(&TokenGrant {
        principal: principal.to_owned(),
        roles: roles.iter().copied().collect::<BTreeSet<_>>(),
        queued_jobs: None,
        highest_priority: None,
        requests_per_second,
    })
    .unwrap()
}

fn bearer(token: &NewToken) -> String {
    format!("Bearer {}", token.token)
}

#[tokio::test]
async fn a_service_learns_who_calls_and_strangers_learn_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let reader = new_token("reader", &[Role::Read], None);
    let admin = new_token("admin", &[Role::Admin], None);
    std::fs::write(&path, format!("{}{}", reader.entry, admin.entry)).unwrap();
    let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
    let server = Running::start(ServerSettings::default(), authenticator).await;
    let channel = server.channel().await;

    let none = get(&channel, asking("a", &[])).await.unwrap_err();
    let wrong = get(&channel, asking("a", &[("authorization", "Bearer wrong")])).await.unwrap_err();
    for error in [&none, &wrong] {
        assert_eq!(error.code(), Code::Unauthenticated);
        assert_eq!(error.metadata().get("www-authenticate").unwrap(), "Bearer realm=\"keystep\"");
        assert!(error.metadata().get("x-request-id").is_some());
    }
    assert_eq!(none.message(), wrong.message());
    let unknown = channel.clone();
    let mut client = tonic::client::Grpc::new(unknown);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Operation, Operation>::default();
    let path_of_none = http::uri::PathAndQuery::from_static("/a.B/C");
    let error = client.unary(Request::new(Operation::default()), path_of_none, codec).await;
    assert_eq!(error.unwrap_err().code(), Code::Unauthenticated, "strangers may not look around");

    let (as_reader, as_admin) = (bearer(&reader), bearer(&admin));
    let metadata = [("authorization", as_reader.as_str()), ("x-request-id", "mine")];
    let answer = get(&channel, asking("a", &metadata)).await.unwrap();
    assert_eq!(answer.get_ref().name, "reader mine");
    let error = get(&channel, asking("submit", &metadata)).await.unwrap_err();
    assert_eq!(error.code(), Code::PermissionDenied);
    let metadata = [("authorization", as_admin.as_str())];
    get(&channel, asking("submit", &metadata)).await.unwrap();
}

#[tokio::test]
async fn too_many_calls_are_refused_with_a_time_to_retry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let token = new_token("ci", &[Role::Read], Some(0.001));
    std::fs::write(&path, &token.entry).unwrap();
    let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
    let server = Running::start(ServerSettings::default(), authenticator).await;
    let channel = server.channel().await;
    let authorization = bearer(&token);
    let metadata = [("authorization", authorization.as_str())];
    get(&channel, asking("a", &metadata)).await.unwrap();
    let error = get(&channel, asking("a", &metadata)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    let details = error.get_error_details();
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::from_mins(15) && wait <= Duration::from_secs(1000), "{wait:?}");
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, "principal:ci");
}

#[tokio::test]
async fn tokens_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let (old, new) = (new_token("old", &[Role::Read], None), new_token("new", &[Role::Read], None));
    std::fs::write(&path, &old.entry).unwrap();
    let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
    let settings =
        ServerSettings { reload_every: Duration::from_millis(5), ..ServerSettings::default() };
    let server = Running::start(settings, authenticator).await;
    let channel = server.channel().await;
    let (as_old, as_new) = (bearer(&old), bearer(&new));
    let (as_old, as_new) =
        ([("authorization", as_old.as_str())], [("authorization", as_new.as_str())]);
    get(&channel, asking("a", &as_old)).await.unwrap();
    std::fs::write(&path, &new.entry).unwrap();
    let changed = async {
        while get(&channel, asking("a", &as_old)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, changed).await.unwrap();
    get(&channel, asking("a", &as_new)).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_token_or_its_role() {
    for (replaced, wanted, reason) in [
        (None, Code::Unauthenticated, "CALLER_UNKNOWN"),
        (Some("[\"generate\"]"), Code::PermissionDenied, "ROLE_MISSING"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        let (token, other) =
            (new_token("ci", &[Role::Read], None), new_token("other", &[Role::Read], None));
        std::fs::write(&path, format!("{}{}", token.entry, other.entry)).unwrap();
        let authenticator = Authenticator::from_file(&path, Clock::System).await.unwrap();
        let settings =
            ServerSettings { reload_every: Duration::from_millis(5), ..ServerSettings::default() };
        let server = Running::start(settings, authenticator).await;
        let channel = server.channel().await;
        let watched = |token: &NewToken| {
            let request = WatchOperationRequest { name: "wait".to_owned(), ..Default::default() };
            let mut request = Request::new(request);
            request.metadata_mut().insert("authorization", bearer(token).parse().unwrap());
            let mut client = UnlearningServiceClient::new(channel.clone());
            async move {
                let mut stream = client.watch_operation(request).await.unwrap().into_inner();
                stream.message().await.unwrap().unwrap();
                stream
            }
        };
        let mut ending = watched(&token).await;
        let mut staying = watched(&other).await;
        let authorization = bearer(&token);
        let metadata = [("authorization", authorization.as_str())];
        let waiting = get(&channel, asking("slow", &metadata));
        let changed =
            replaced.map_or(String::new(), |roles| token.entry.replace("[\"read\"]", roles));
        let change = async {
            server.slow_begun.notified().await;
            std::fs::write(&path, format!("{changed}{}", other.entry)).unwrap();
        };
        let ended = async { tokio::join!(ending.message(), waiting, change) };
        let (ended, waited, ()) = tokio::time::timeout(PATIENCE, ended).await.unwrap();
        for error in [ended.unwrap_err(), waited.unwrap_err()] {
            assert_eq!(error.code(), wanted);
            assert_eq!(error.get_details_error_info().unwrap().reason, reason);
        }
        server.release.notify_one();
        assert!(staying.message().await.unwrap().is_some(), "the other's goes on");
    }
}
