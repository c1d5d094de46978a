//! Who makes a request: a front proxy's word, client certificate, then bearer token (file, ServiceAccount, bootstrap token), then
//! nobody (`system:anonymous`).
//!
//! A request with credentials that are not accepted is refused; it never falls back to anonymous.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, header};
use jiff::Timestamp;

use super::bootstrap_token;
use super::front_proxy::FrontProxy;
use super::token_file::TokenFile;
use super::tokens::{AcceptedToken, TokenError, TokenIssuer};
use super::user::UserInfo;
use super::x509::{CertificateAuthenticator, PeerCertificates};
use crate::objects::Objects;

const WEBSOCKET_TOKEN_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// The request is not authenticated; answer 401. The text is for the log only.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unauthenticated(pub String);

/// All authenticators of one server.
pub struct Authenticators {
    /// Believes a front proxy.
    pub front_proxy: Option<FrontProxy>,
    /// Checks client certificates.
    pub certificates: Option<CertificateAuthenticator>,
    /// Checks ServiceAccount tokens.
    pub tokens: Arc<TokenIssuer>,
    /// Static tokens.
    pub token_file: TokenFile,
    /// Whether bootstrap tokens are credentials.
    pub bootstrap_tokens: bool,
    /// Whether requests without credentials are `system:anonymous`, or refused.
    pub anonymous: bool,
    /// The cluster's state.
    pub objects: Arc<dyn Objects>,
}

impl Authenticators {
    /// Identifies a request and takes its credentials out of the headers, so that nothing behind can leak them.
    pub async fn authenticate(
        &self,
        headers: &mut HeaderMap,
        peer: Option<&PeerCertificates>,
    ) -> Result<UserInfo, Unauthenticated> {
        let mut failure = None;
        if let Some(peer) = peer {
            let now = Timestamp::now();
            let named = self.front_proxy.as_ref().and_then(|proxy| proxy.authenticate(headers, peer, now));
            let certified = match &self.certificates {
                Some(certificates) if named.is_none() => Some(certificates.authenticate(peer, now)),
                _ => None,
            };
            match named.map(Ok).or(certified) {
                Some(Ok(user)) => {
                    headers.remove(header::AUTHORIZATION);
                    return Ok(user);
                }
                Some(Err(reason)) => failure = Some(Unauthenticated(format!("x509: {reason}"))),
                // Without a CA nobody looks at certificates.
                None => {}
            }
        }
        let token = match bearer_token(headers) {
            Some(token) => Some(token),
            None => websocket_token(headers)?,
        };
        if let Some(token) = token {
            headers.remove(header::AUTHORIZATION);
            return self.authenticate_token(&token, &[]).await.map(|t| t.user).map_err(|e| Unauthenticated(e.to_string()));
        }
        match failure {
            Some(failure) => Err(failure),
            None if self.anonymous => Ok(UserInfo::anonymous()),
            None => Err(Unauthenticated("no credentials".to_owned())),
        }
    }

    /// Whose bearer token this is; `audiences` empty stands for this API server's own (TokenReview may ask for others).
    pub async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<AcceptedToken, TokenError> {
        if let Some(user) = self.token_file.authenticate(token)
            && let Some(audiences) = self.own_audiences(audiences)
        {
            return Ok(AcceptedToken { user: user.clone(), audiences });
        }
        let (objects, now) = (self.objects.as_ref(), Timestamp::now());
        match self.tokens.authenticate(token, audiences, objects, now).await {
            Err(TokenError::NotOurs) => {}
            other => return other,
        }
        if self.bootstrap_tokens
            && let Some(audiences) = self.own_audiences(audiences)
            && let Some(user) = bootstrap_token::authenticate(token, objects, now).await?
        {
            return Ok(AcceptedToken { user, audiences });
        }
        Err(TokenError::Invalid("invalid bearer token".to_owned()))
    }

    /// For tokens that know no audience, which are good for this server only: those asked for that are its own, or `None` if the question
    /// is about others.
    fn own_audiences(&self, asked: &[String]) -> Option<Vec<String>> {
        let own = self.tokens.api_audiences();
        let matching: Vec<String> = asked.iter().filter(|audience| own.contains(audience)).cloned().collect();
        (asked.is_empty() || !matching.is_empty()).then_some(matching)
    }
}

/// RFC 6750, with upstream's leniency about case.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Browsers cannot set headers on WebSockets, so the token may come as a subprotocol, which is taken out here.
fn websocket_token(headers: &mut HeaderMap) -> Result<Option<String>, Unauthenticated> {
    let is_websocket = headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !is_websocket {
        return Ok(None);
    }
    let (mut token, mut rest) = (None, Vec::new());
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            let Some(encoded) = protocol.strip_prefix(WEBSOCKET_TOKEN_PREFIX) else {
                rest.push(protocol.to_owned());
                continue;
            };
            if token.is_some() {
                return Err(Unauthenticated("multiple base64.bearer.authorization tokens specified".to_owned()));
            }
            let decoded = URL_SAFE_NO_PAD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            token = Some(decoded.ok_or_else(|| Unauthenticated("invalid base64.bearer.authorization token".to_owned()))?);
        }
    }
    if token.is_some() {
        if rest.is_empty() {
            return Err(Unauthenticated("missing additional subprotocol".to_owned()));
        }
        if let Ok(value) = HeaderValue::from_str(&rest.join(",")) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    Ok(token.filter(|t| !t.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_headers() {
        for (value, wanted) in
            [("Bearer abc", Some("abc")), ("bearer  abc ", Some("abc")), ("Basic abc", None), ("Bearer", None), ("Bearer ", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(bearer_token(&headers).as_deref(), wanted, "{value:?}");
        }
    }

    #[test]
    fn websocket_tokens_are_taken_out() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let protocols = format!("{WEBSOCKET_TOKEN_PREFIX}{}, v5.channel.k8s.io", URL_SAFE_NO_PAD.encode("secret"));
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&protocols).expect("ASCII"));
        assert_eq!(websocket_token(&mut headers).expect("well formed").as_deref(), Some("secret"));
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
    }
}
