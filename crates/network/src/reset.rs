//! Taking a pod network down for good, when no server uses it any more.

use nftables::{Batch, Connection, Family, Table};

use crate::Error;
use crate::netlink::Netlink;

/// Removes a bridge (with the addresses and routes on it) and the nftables tables of these names in the ip and ip6 families. What is
/// not there is no error. The pods' own links end with their namespaces. Blocks for a few milliseconds.
pub fn remove(bridge: &str, tables: &[&str]) -> Result<(), Error> {
    Netlink::open()?.delete_link(bridge)?;
    let mut connection = Connection::open()?;
    for name in tables {
        for family in [Family::Ipv4, Family::Ipv6] {
            let mut batch = Batch::new(&Table::new(family, *name));
            // Adding first makes the deletion succeed where there is none.
            batch.add_table();
            batch.delete_table();
            connection.commit(&batch)?;
        }
    }
    Ok(())
}
