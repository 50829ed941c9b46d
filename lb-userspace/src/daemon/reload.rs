//! Taking over the configuration file as it is now, while the daemon runs.

use anyhow::Context as _;

use super::{Daemon, age_tick, plan};
use crate::config::{Announce, Config};

impl Daemon {
    /// Reads the configuration again: the whole of it is taken over, or nothing.
    pub(super) async fn reload(&mut self) {
        let (config, before) = match self.take_over().await {
            Ok(taken) => taken,
            Err(error) => return tracing::error!("the configuration stays as it was: {error:#}"),
        };
        match self.follow(&config, &before).await {
            Ok(()) => tracing::info!("{} was read again and applied", self.file.display()),
            Err(error) => tracing::error!("the new configuration is applied, but {error:#}"),
        }
    }

    /// Applies the configuration as it is now; gives it, and the one before.
    async fn take_over(&self) -> anyhow::Result<(Config, Config)> {
        let mut config = Config::load(&self.file)?;
        let before = self.lock().config.clone();
        config.daemon.socket.clone_from(&before.daemon.socket);
        restart_only(&before, &config)?;
        let interfaces = plan::find_interfaces(&config, &self.netlink).await?;
        plan::check_sources(&config, &self.netlink).await?;
        plan::metrics_urls(&config)?;
        tokio::task::block_in_place(|| self.lock().apply(config.clone(), interfaces))?;
        Ok((config, before))
    }

    /// Watches and announces what a new configuration names, and no longer what only the old one did.
    async fn follow(&mut self, config: &Config, before: &Config) -> anyhow::Result<()> {
        self.watch(config, Some(before))?;
        let meta = self.lock().dataplane.maps().meta.read(0);
        self.sweeping.set_policy(plan::timeouts(&config.daemon, age_tick(&meta)));
        // Scrapes are known only now.
        tokio::task::block_in_place(|| self.lock().settle())?;
        self.withdraw(config, before).await?;
        self.announce(config).await
    }

    /// Takes addresses off interfaces that the new configuration no longer wants there.
    async fn withdraw(&mut self, config: &Config, before: &Config) -> anyhow::Result<()> {
        let placed = |config: &Config| -> Vec<_> {
            let vips = config.vips.iter();
            vips.filter_map(|vip| match &vip.announce {
                Announce::Address { interface } => Some((interface.clone(), vip.address)),
                Announce::None | Announce::Arp { .. } => None,
            })
            .collect()
        };
        let wanted = placed(config);
        let interfaces = self.lock().interfaces.clone();
        for (name, address) in placed(before).into_iter().filter(|place| !wanted.contains(place)) {
            let interface = interfaces.get(&name).with_context(|| format!("interface {name} is gone"))?;
            self.addresses
                .remove(interface, address)
                .await
                .with_context(|| format!("take {address} off {name}"))?;
        }
        Ok(())
    }
}

/// Refuses what only a restart can change.
fn restart_only(before: &Config, after: &Config) -> anyhow::Result<()> {
    let (old, new) = (&before.daemon, &after.daemon);
    anyhow::ensure!(
        (&old.pin, old.flows, old.tick) == (&new.pin, new.flows, new.tick),
        "`pin`, `flows` and `tick` of [daemon] change only with a restart"
    );
    let ports =
        |config: &Config| -> Vec<_> { config.interfaces.iter().map(|i| (i.name.clone(), i.mode)).collect() };
    anyhow::ensure!(ports(before) == ports(after), "interfaces change only with a restart");
    anyhow::ensure!(
        before.nat.addresses() == after.nat.addresses(),
        "`sources` of [nat] change only with a restart{}",
        // Flows hold ports of the old ones.
        if old.pin.is_some() { ", and with `pin` only once its directory is removed" } else { "" }
    );
    anyhow::ensure!(before.health == after.health, "[health] changes only with a restart");
    Ok(())
}
