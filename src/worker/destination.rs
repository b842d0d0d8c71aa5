//! Where results may be published: at or below one of the operator's prefixes, and nowhere else.

use url::Url;

/// The prefix to publish below, as it is stored: normalised, without a slash at its end. The message
/// names what may be asked for.
pub fn destination(asked: &str, allowed: &[String]) -> Result<String, String> {
    // The operator's own may hold anything, such as a folder's name with a percent sign.
    let known: Vec<Url> = allowed.iter().filter_map(|prefix| Url::parse(prefix).ok()).collect();
    if asked.is_empty() {
        let first = known.first().map(written);
        return first.ok_or_else(|| "this server publishes nowhere; ask its operator".to_owned());
    }
    let url = read(asked)?;
    if known.iter().any(|prefix| is_within(&url, prefix)) {
        return Ok(written(&url));
    }
    let prefixes: Vec<String> = known.iter().map(written).collect();
    Err(format!("lies outside of what this server allows: {}", prefixes.join(", ")))
}

/// Whether results may still go to a destination that was stored, by the prefixes of today.
pub fn is_allowed(destination: &str, allowed: &[String]) -> bool {
    let Ok(url) = Url::parse(destination) else { return false };
    allowed
        .iter()
        .filter_map(|prefix| Url::parse(prefix).ok())
        .any(|prefix| is_within(&url, &prefix))
}

/// Parsers of URLs and stores differ in what they make of dots, escapes and backslashes, so that none
/// may stand where it could lead out of a prefix.
fn read(text: &str) -> Result<Url, String> {
    let lower = text.to_ascii_lowercase();
    if text.contains(['\\', '?', '#']) || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err("holds \\, ?, #, a space or a control character; leave it out".to_owned());
    }
    if ["%2e", "%2f", "%5c", "%25"].iter().any(|escape| lower.contains(escape)) {
        return Err(
            "escapes a dot, a slash, a backslash or a percent sign; leave it out".to_owned()
        );
    }
    let Some((_, path)) = text.split_once("://") else {
        return Err("is no URL; give one such as s3://bucket/prefix".to_owned());
    };
    let is_step = |part: &str| part == "." || part == "..";
    if path.split('/').any(is_step) || path.trim_end_matches('/').contains("//") {
        return Err("holds an empty part or one of dots; write the path out".to_owned());
    }
    let url = Url::parse(text)
        .map_err(|_| "is no URL; give one such as s3://bucket/prefix".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds credentials; leave them out".to_owned());
    }
    if url.cannot_be_a_base() {
        return Err("has no path; give one such as s3://bucket/prefix".to_owned());
    }
    Ok(url)
}

fn is_within(url: &Url, prefix: &Url) -> bool {
    let same_place = url.scheme() == prefix.scheme()
        && url.host_str() == prefix.host_str()
        && url.port_or_known_default() == prefix.port_or_known_default();
    let (parts, begin) = (parts(url), parts(prefix));
    same_place && parts.starts_with(&begin)
}

fn parts(url: &Url) -> Vec<&str> {
    url.path().split('/').filter(|part| !part.is_empty()).collect()
}

fn written(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(asked: &str) -> Result<String, String> {
        destination(asked, &["s3://b/p/".to_owned(), "file:///data/out".to_owned()])
    }

    #[test]
    fn the_first_prefix_is_the_default() {
        assert_eq!(at("").unwrap(), "s3://b/p");
        assert!(destination("", &[]).is_err());
        assert!(destination("s3://b/p", &[]).is_err());
        let odd = "file:///a%20%23/50%25";
        assert_eq!(destination("", &[odd.to_owned()]).as_deref(), Ok(odd));
        assert!(destination(odd, &[odd.to_owned()]).is_err());
    }

    #[test]
    fn what_lies_below_is_allowed() {
        for (asked, stored) in [
            ("s3://b/p", "s3://b/p"),
            ("s3://b/p/", "s3://b/p"),
            ("s3://b/p/team/x", "s3://b/p/team/x"),
            ("file:///data/out/a", "file:///data/out/a"),
            ("FILE:///data/out/a", "file:///data/out/a"),
        ] {
            assert_eq!(at(asked).as_deref(), Ok(stored), "{asked}");
        }
    }

    #[test]
    fn what_was_allowed_once_is_looked_at_again() {
        let prefixes = ["s3://b/p/".to_owned(), "file:///a%20%23".to_owned()];
        for stored in ["s3://b/p", "s3://b/p/team", "file:///a%20%23/x"] {
            assert!(is_allowed(stored, &prefixes), "{stored}");
        }
        for stored in ["s3://b/p2", "s3://other/p", "file:///a", "", "nonsense"] {
            assert!(!is_allowed(stored, &prefixes), "{stored}");
        }
    }

    #[test]
    fn nothing_leads_out() {
        for asked in [
            "s3://b/prefix2", "s3://b/p2", "s3://b", "s3://b2/p", "s3://B/p", "gs://b/p",
            "s3://b:1/p", "s3://user:secret@b/p", "s3://b/p/../q", "s3://b/p/%2e%2e/q",
            "s3://b/p/%2E./q", "s3://b/p/..%2fq", "s3://b/p/%252e%252e/q", "s3://b/p/..\\q",
            "s3://b/p//q", "s3://b/p/.", "s3://b/p?x=1", "s3://b/p#x", "s3://b/p/\n../q",
            "file:///data/out/../../etc", "file://host/data/out", "/data/out", "file:data/out",
            "mailto:a@b", "s3:", "nonsense", "\u{0}",
        ] {
            let refused = at(asked);
            assert!(refused.is_err(), "{asked}: {refused:?}");
            assert!(!refused.unwrap_err().contains("secret"));
        }
    }
}
