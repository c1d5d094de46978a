//! Components that the server leaves to somebody else (`--without`): upstream's, a newer one, one in a debugger.
//!
//! Owns what such a component needs to take its place: a kubeconfig with the identity that ours would have, and for a kubelet the socket
//! of the embedded runtime. The kubeconfigs are written at every start, with a new certificate that lives as long as the others.

use std::path::PathBuf;

use anyhow::Context;
use api_server::Pki;

use super::Site;

/// A component that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Component {
    /// The controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The kubelet; the embedded runtime listens on DATA-DIR/cri.sock.
    Kubelet,
}

impl Component {
    /// Who it is to the API server: its user and group.
    fn identity(self, node_name: &str) -> (String, Option<&'static str>) {
        match self {
            Self::ControllerManager => ("system:kube-controller-manager".to_owned(), None),
            Self::Scheduler => ("system:kube-scheduler".to_owned(), None),
            Self::Kubelet => (format!("system:node:{node_name}"), Some("system:nodes")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ControllerManager => "controller-manager",
            Self::Scheduler => "scheduler",
            Self::Kubelet => "kubelet",
        }
    }
}

impl Site {
    /// Whether the server runs this component itself.
    pub(super) fn runs(&self, component: Component) -> bool {
        !self.options.without.contains(&component)
    }

    /// Where the embedded runtime listens if somebody else's kubelet drives it.
    pub(super) fn runtime_socket(&self) -> PathBuf {
        self.instance.data_dir().join("cri.sock")
    }
}

/// Writes `DATA-DIR/COMPONENT.kubeconfig` for each component that is left out.
pub(super) fn write_kubeconfigs(site: &Site, pki: &Pki, url: &str) -> anyhow::Result<()> {
    for component in &site.options.without {
        let (user, group) = component.identity(&site.node_name);
        let path = site.instance.data_dir().join(format!("{}.kubeconfig", component.name()));
        let write = || pki.write_client_kubeconfig(&path, url, &user, group, jiff::Timestamp::now());
        write().with_context(|| format!("cannot write the kubeconfig of the {}", component.name()))?;
        println!("the {} is left to others: {}", component.name(), path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn a_file_is_called_as_the_flag_says() {
        for component in Component::value_variants() {
            let value = component.to_possible_value().expect("no component is hidden");
            assert_eq!(value.get_name(), component.name());
        }
    }

    #[test]
    fn identities_are_those_of_upstream() {
        let check = |component: Component, user: &str, group| {
            assert_eq!(component.identity("n"), (user.to_owned(), group));
        };
        check(Component::ControllerManager, "system:kube-controller-manager", None);
        check(Component::Scheduler, "system:kube-scheduler", None);
        check(Component::Kubelet, "system:node:n", Some("system:nodes"));
    }
}
