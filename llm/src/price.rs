//! What a call costs. Integers throughout; rounded up once, at the total.

use althing_domain::money::{NanoUsd, PerMillion, round_up};
use althing_domain::policy::ModelPrice;

use crate::usage::Usage;

/// A model's price, with what long prompts cost where that differs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Price {
    /// The price.
    pub base: ModelPrice,
    /// The price of a whole call whose input is longer than so many tokens.
    pub long: Option<Long>,
}

/// What long prompts cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Long {
    /// Input longer than this, in tokens.
    pub above: u64,
    /// A million input tokens.
    pub input: PerMillion,
    /// A million output tokens.
    pub output: PerMillion,
}

impl From<ModelPrice> for Price {
    fn from(base: ModelPrice) -> Self {
        Self { base, long: None }
    }
}

impl Price {
    /// The price of a call with so much input.
    #[must_use]
    pub fn at(&self, input_tokens: u64) -> ModelPrice {
        match self.long {
            Some(long) if long.above < input_tokens => ModelPrice {
                input_usd_per_million: long.input,
                output_usd_per_million: long.output,
                // Never cheaper than listed, nor than the input it stands for where the list has no factor for it.
                cached_input_usd_per_million: self
                    .base
                    .cached_input_usd_per_million
                    .map(|it| it.max(long.input)),
                cache_write_usd_per_million: self
                    .base
                    .cache_write_usd_per_million
                    .map(|it| scaled(it, long.input, self.base.input_usd_per_million)),
            },
            _ => self.base,
        }
    }

    /// What a call costs that asks the vendor to keep its cache for an hour: writing costs twice the input then, which
    /// no list has. Without a price for writing, writing costs nothing beside the input.
    #[must_use]
    pub fn with_hour_cache(mut self) -> Self {
        let twice = PerMillion(self.base.input_usd_per_million.0.saturating_mul(2));
        let write = &mut self.base.cache_write_usd_per_million;
        *write = write.map(|it| it.max(twice));
        self
    }

    /// The most that a call can cost: all input uncached (or written to the cache, where that is dearer), all of the output used.
    #[must_use]
    pub fn upper_bound(&self, input_tokens: u64, output_tokens: u64) -> NanoUsd {
        let price = self.at(input_tokens);
        let input =
            price.input_usd_per_million.max(price.cache_write_usd_per_million.unwrap_or_default());
        round_up(input.exact(input_tokens) + price.output_usd_per_million.exact(output_tokens))
    }

    /// How many output tokens fit into `money` beside so much input.
    #[must_use]
    pub fn affordable_output(&self, money: NanoUsd, input_tokens: u64) -> u64 {
        let price = self.at(input_tokens);
        let left = money.saturating_sub(self.upper_bound(input_tokens, 0));
        match price.output_usd_per_million.0 {
            0 => u64::MAX,
            per_million => u64::try_from(u128::from(left.0) * 1_000_000 / u128::from(per_million))
                .unwrap_or(u64::MAX),
        }
    }
}

/// `price` times `to / from`, rounded up, and never less than `to`: what writing the cache costs where input costs more.
fn scaled(price: PerMillion, to: PerMillion, from: PerMillion) -> PerMillion {
    let exact = u128::from(price.0) * u128::from(to.0);
    let scaled = exact.div_ceil(u128::from(from.0.max(1)));
    PerMillion(u64::try_from(scaled).unwrap_or(u64::MAX)).max(price).max(to)
}

/// What `usage` costs.
#[must_use]
pub fn cost(usage: &Usage, price: &Price) -> NanoUsd {
    let price = price.at(usage.input);
    let cached = usage.cached_input.min(usage.input);
    let written = usage.cache_write.min(usage.input - cached);
    let plain = usage.input - cached - written;
    let cached_price = price.cached_input_usd_per_million.unwrap_or(price.input_usd_per_million);
    let write_price = price.cache_write_usd_per_million.unwrap_or(price.input_usd_per_million);
    round_up(
        price.input_usd_per_million.exact(plain)
            + cached_price.exact(cached)
            + write_price.exact(written)
            + price.output_usd_per_million.exact(usage.output),
    )
}

#[cfg(test)]
mod tests {
    use althing_domain::money::{NanoUsd, PerMillion};
    use althing_domain::policy::ModelPrice;

    use super::{Long, Price, cost};
    use crate::usage::Usage;

    const PRICE: Price = Price {
        base: ModelPrice {
            input_usd_per_million: PerMillion(3_000_000_000),
            cached_input_usd_per_million: Some(PerMillion(300_000_000)),
            cache_write_usd_per_million: Some(PerMillion(3_750_000_000)),
            output_usd_per_million: PerMillion(15_000_000_000),
        },
        long: Some(Long {
            above: 200_000,
            input: PerMillion(6_000_000_000),
            output: PerMillion(22_500_000_000),
        }),
    };

    #[test]
    fn cached_written_and_plain_input_each_cost_their_own() {
        let usage =
            Usage { input: 1_000, cached_input: 600, cache_write: 300, output: 10, reasoning: 4 };
        // 100 * 3000 + 600 * 300 + 300 * 3750 + 10 * 15000 nano-dollars.
        assert_eq!(cost(&usage, &PRICE), NanoUsd(300_000 + 180_000 + 1_125_000 + 150_000));
    }

    #[test]
    fn a_long_prompt_costs_its_own_price_as_a_whole() {
        let usage = Usage { input: 200_001, output: 1, ..Usage::default() };
        assert_eq!(cost(&usage, &PRICE), NanoUsd(200_001 * 6_000 + 22_500));
    }

    #[test]
    fn writing_the_cache_of_a_long_prompt_costs_its_share_more() {
        let write = Usage { input: 300_000, cache_write: 300_000, ..Usage::default() };
        assert_eq!(cost(&write, &PRICE), NanoUsd(300_000 * 7_500));
        assert!(cost(&write, &PRICE) <= PRICE.upper_bound(300_000, 0));
    }

    #[test]
    fn an_hour_of_cache_costs_twice_the_input_and_is_bounded_so() {
        let write = Usage { input: 1_000, cache_write: 1_000, ..Usage::default() };
        let hour = PRICE.with_hour_cache();
        assert_eq!(cost(&write, &hour), NanoUsd(1_000 * 6_000));
        assert_eq!(hour.upper_bound(1_000, 0), NanoUsd(1_000 * 6_000));
        assert_eq!(hour.at(300_000).cache_write_usd_per_million, Some(PerMillion(12_000_000_000)));
    }

    #[test]
    fn no_usage_within_the_bound_costs_more_than_the_bound() {
        for (input, output) in [(0, 0), (1, 1), (1_000, 50), (250_000, 4_000)] {
            let bound = PRICE.upper_bound(input, output);
            for cached in [0, input / 2, input] {
                for written in [0, input - cached] {
                    let usage = Usage {
                        input,
                        cached_input: cached,
                        cache_write: written,
                        output,
                        reasoning: 0,
                    };
                    assert!(cost(&usage, &PRICE) <= bound, "{usage:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_affordable_stays_within_the_money() {
        let money = NanoUsd(1_000_000);
        let output = PRICE.affordable_output(money, 100);
        assert!(0 < output && PRICE.upper_bound(100, output) <= money);
        assert!(money < PRICE.upper_bound(100, output + 1));
    }
}
