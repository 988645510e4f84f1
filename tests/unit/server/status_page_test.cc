#include "kvstore/server/status_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kvstore/base/metrics.h"
#include "kvstore/server/open_streams.h"
#include "kvstore/server/rates.h"

namespace varve::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

TEST(RatesTest, ArePerSecondOverTheWindow) {
  Rates rates;
  EXPECT_TRUE(rates.PerSecond().empty());
  const absl::Time start = absl::FromUnixSeconds(1000);
  rates.Sample(start, {{"a", 0}, {"b", 100}});
  EXPECT_THAT(rates.PerSecond(), ElementsAre(Pair("a", 0), Pair("b", 0)));
  for (int i = 1; i <= 5; ++i) rates.Sample(start + absl::Seconds(i), {{"a", 4.0 * i}, {"b", 100}});
  EXPECT_THAT(rates.PerSecond(), ElementsAre(Pair("a", 4), Pair("b", 0)));
  // A burst leaves the window after ten seconds.
  for (int i = 6; i <= 30; ++i) rates.Sample(start + absl::Seconds(i), {{"a", 20}, {"b", 100}});
  EXPECT_THAT(rates.PerSecond(), ElementsAre(Pair("a", 0), Pair("b", 0)));
}

TEST(StatusPageTest, EscapesWhatClientsChose) {
  StatusPageData data;
  data.status.add_sessions()->set_client_name("<img src=x>");
  data.status.mutable_sessions(0)->set_key_namespace("<b>");
  data.contexts.emplace_back().set_context_id("<i>");
  const std::string html = RenderStatusPage(data);
  for (const char* raw : {"<img", "<b></td>", "<i></td>"}) EXPECT_THAT(html, Not(HasSubstr(raw)));
  EXPECT_THAT(html, HasSubstr("&lt;img src=x&gt;"));
}

TEST(StatusPageTest, HasNoExternalPartsAndShowsItsData) {
  StatusPageData data;
  varve::v1::TierStatus* tier = data.status.add_tiers();
  tier->set_tier(varve::v1::TIER_HOST);
  tier->set_capacity_bytes(1000);
  tier->set_used_bytes(500);
  tier->set_pinned_bytes(250);
  tier->set_evicted_objects(31);
  tier->set_cut_objects(17);
  data.status.set_draining(true);
  data.rates = {{"objects got", 12.5}, {"to clients, bytes", 3 << 20}};
  data.stages = {{"score", 7, 0.00025, 1.5}};
  const std::string html = RenderStatusPage(data);
  for (const char* shown :
       {"host", "width:50.0%", "width:25.0%", "<td>31</td><td>17</td>", "draining", "12",
        "3.00 MiB", "250 &micro;s", "1.50 s", "no client is connected", "http-equiv=\"refresh\""}) {
    EXPECT_THAT(html, HasSubstr(shown));
  }
  for (const char* external : {"http://", "https://", "src="})
    EXPECT_THAT(html, Not(HasSubstr(external)));
}

TEST(StatusPageTest, QuantilesInterpolateInsideBuckets) {
  base::Metrics metrics;
  prometheus::Histogram& histogram = metrics.Histogram("h", "help", {}, {1, 2, 4});
  EXPECT_EQ(Quantiles("s", histogram).p99_seconds, 0);
  for (int i = 0; i < 50; ++i) histogram.Observe(0.5);
  for (int i = 0; i < 50; ++i) histogram.Observe(3);
  const StageQuantiles quantiles = Quantiles("s", histogram);
  EXPECT_EQ(quantiles.count, 100u);
  EXPECT_DOUBLE_EQ(quantiles.p50_seconds, 1);
  EXPECT_DOUBLE_EQ(quantiles.p99_seconds, 2 + 2 * 49.0 / 50);
  for (int i = 0; i < 1000; ++i) histogram.Observe(100);
  EXPECT_DOUBLE_EQ(Quantiles("s", histogram).p99_seconds, 4);
}

TEST(OpenStreamsTest, ClosesTheOpenOnceAndRefusesTheLate) {
  OpenStreams streams;
  int closed = 0;
  const auto closer = [&](const absl::Status& status) { closed += absl::IsUnavailable(status); };
  const uint64_t gone = streams.Add(closer);
  EXPECT_NE(gone, 0u);
  EXPECT_NE(streams.Add(closer), gone);
  streams.Remove(gone);
  streams.CloseAll(absl::UnavailableError("bye"));
  EXPECT_EQ(closed, 1);
  EXPECT_EQ(streams.Add(closer), 0u);
  streams.CloseAll(absl::UnavailableError("bye"));
  EXPECT_EQ(closed, 1);
}

}  // namespace
}  // namespace varve::server
