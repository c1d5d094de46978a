//! Kubeconfig files (<https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>) with everything embedded.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use ::serving::KeyCert;

/// `user` must not need quoting in YAML; names of users and clusters here are our own constants or node names.
pub(super) fn render(server: &str, user: &str, ca_pem: &str, who: &KeyCert) -> String {
    let (ca, cert, key) = (STANDARD.encode(ca_pem), STANDARD.encode(&who.cert_pem), STANDARD.encode(&who.key_pem));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: rusternetes\n\
         \x20 cluster:\n\
         \x20   server: {server}\n\
         \x20   certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n\
         \x20 user:\n\
         \x20   client-certificate-data: {cert}\n\
         \x20   client-key-data: {key}\n\
         contexts:\n\
         - name: {user}@rusternetes\n\
         \x20 context:\n\
         \x20   cluster: rusternetes\n\
         \x20   user: {user}\n\
         current-context: {user}@rusternetes\n\
         preferences: {{}}\n"
    )
}
