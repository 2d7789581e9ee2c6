//! The pair most tests are about: `web` at site a and `user` at site c.

use std::path::Path;

use anyhow::Result;
use mat_netns::testbed::{Instance, Options, Testbed};

/// Two instances on a running testbed.
#[derive(Debug)]
pub struct Scene {
    pub web: Instance,
    pub user: Instance,
    pub bed: Testbed,
}

/// One family's addresses of the two.
#[derive(Clone, Copy, Debug)]
pub struct Homes<'a> {
    pub web: &'a str,
    pub user: &'a str,
}

impl Scene {
    /// With ordinary links.
    pub fn new() -> Result<Self> {
        Self::with(Options::new()?)
    }

    /// Without `offloads` also the instances' own links do everything in software.
    pub fn with(options: Options) -> Result<Self> {
        let bed = Testbed::new(options)?;
        let web = plug_in(&bed, "web", 10, "a")?;
        let user = plug_in(&bed, "user", 20, "c")?;
        Ok(Self { web, user, bed })
    }

    /// IPv4, then IPv6.
    pub fn families(&self) -> [Homes<'_>; 2] {
        let (web, user) = (&self.web, &self.user);
        [
            Homes {
                web: &web.home,
                user: &user.home,
            },
            Homes {
                web: &web.home6,
                user: &user.home6,
            },
        ]
    }

    /// Control socket of a site's forwarder.
    pub fn socket(&self, site: &str) -> &Path {
        &self.bed.site(site).socket
    }

    /// Ends everything and says whether all of it could be removed.
    pub fn end(self) -> Result<()> {
        self.bed.lab.end()
    }
}

/// Makes an instance at a site and attaches both its home addresses.
pub fn plug_in(bed: &Testbed, name: &str, number: u8, site: &str) -> Result<Instance> {
    let instance = bed.unattached(name, number, site)?;
    if !bed.options().offloads {
        instance.host.offloads_off("eth0")?;
        bed.site(site).host.offloads_off(&instance.interface)?;
    }
    bed.attach(&instance, site, &[])?;
    Ok(instance)
}
