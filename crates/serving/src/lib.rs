//! What the secure ports of the API server and of components have in common: TLS with client certificates that are asked for and not
//! required, and who a certificate or a front proxy says is calling.
//!
//! Invariant: the handshake takes any client certificate whose key the client holds; whether somebody whom we trust has signed it is
//! decided for each request ([`Authorities`]), so that a bad one is answered with 401 and the authorities can change while a server runs.
//!
//! Deliberately absent: listeners and HTTP, which are each server's own.

mod authorities;
mod certificate;
mod front_proxy;
mod names;
mod tls;

pub use authorities::{Authorities, AuthoritiesThen, Subject};
pub use certificate::{CertificateError, KeyCert, ServingCertificate};
pub use front_proxy::{Claimed, RequestHeaders, percent_decoded};
pub use names::{Names, text_of};
pub use tls::{Handshakes, TlsOptions};
