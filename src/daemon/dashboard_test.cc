// SPDX-License-Identifier: Apache-2.0
#include "daemon/dashboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace shale::daemon {
namespace {

using testing::HasSubstr;
using testing::Not;

Dashboard example() {
    Dashboard out;
    out.hostname = "host<1>";
    out.version = "1.2";
    out.has_guard = true;
    auto &served = out.served.emplace_back();
    served.name = "a&b";
    served.driver = "overlay2";
    served.root = "/var/lib/\x1b[31m";
    served.counts.active = 1234;
    served.layers = {{"layer 1 <img src=x>", 3000, 7}, {"layer 2", 1000, 5}};
    served.more_layers = 9;
    served.more_bytes = 500;
    guard::Row row;
    row.sample = {guard::Kind::bytes, "/data", 950, 1000, "bytes"};
    row.marks.steps = {{90, guard::Tier::gc}, {97, guard::Tier::refuse_creates}};
    row.inside = {{90, guard::Tier::gc}};
    row.until_full = std::chrono::minutes(42);
    served.guard.rows = {row};
    served.guard.history = {{{guard::Time(guard::Duration(0)), 10}, {guard::Time(guard::Duration(10'000)), 250}}};
    served.guard.events = {{guard::Time(guard::Duration(1'795'497'374'123)),
                            guard::EventType::entered,
                            guard::Kind::bytes,
                            "/data",
                            guard::Tier::gc,
                            "gc at 90 %: <b>",
                            {"a \"line\""},
                            false}};
    auto &broken = out.served.emplace_back();
    broken.name = "second";
    broken.failure = "open store: no space";
    return out;
}

TEST(DashboardPage, ShowsWhatThereIsAndEscapesIt) {
    const std::string page = dashboard_html(example());
    for (const auto *text :
         {"shaled on host&lt;1&gt;", "a&amp;b", "/var/lib/\\x1b[31m", "1,234", "not served: open store: no space",
          "95.0 %", "42 min", "gc at 90 %", "class=\"entered\" x1=\"234.0\"", "layer 1 &lt;img src=x&gt;: 2.9 KiB",
          "9 more", "gc at 90 %: &lt;b&gt;", "a &quot;line&quot;", "<title>refuse_creates at 97 %</title>"})
        EXPECT_THAT(page, HasSubstr(text));
    EXPECT_THAT(page, Not(HasSubstr("<script")));
    EXPECT_THAT(page, Not(HasSubstr("<img")));
    EXPECT_THAT(page, Not(HasSubstr("http://")));
    EXPECT_THAT(page, Not(HasSubstr("https://")));
    EXPECT_THAT(page, HasSubstr("points=\"0.0,24.4 180.0,1.0 \"")) << "what is more than all is drawn as all";
}

TEST(DashboardPage, SaysWhatThereIsNot) {
    Dashboard dashboard = example();
    dashboard.served.clear();
    dashboard.has_guard = false;
    const std::string page = dashboard_html(dashboard);
    for (const auto *text : {"The guard is off", "No layer has any bytes", "Not looked yet", "Nothing yet"})
        EXPECT_THAT(page, HasSubstr(text));
    const doctor::Diagnosis healthy;
    dashboard.diagnosis = &healthy;
    EXPECT_THAT(dashboard_html(dashboard), HasSubstr("Nothing is wrong"));
}

TEST(DashboardJson, IsTheSame) {
    const auto json = nlohmann::json::parse(dashboard_json(example()), nullptr, false);
    ASSERT_FALSE(json.is_discarded());
    EXPECT_EQ(json["version"], 1);
    const auto &served = json["served"][0];
    EXPECT_EQ(served["snapshots"]["active"], 1234);
    EXPECT_EQ(served["layers"][0]["bytes"], 3000);
    const auto &resource = served["resources"][0];
    EXPECT_EQ(resource["kind"], "bytes");
    EXPECT_EQ(resource["full_in_s"], 42 * 60);
    EXPECT_TRUE(resource["marks"][0]["entered"].get<bool>());
    EXPECT_FALSE(resource["marks"][1]["entered"].get<bool>());
    EXPECT_EQ(resource["history"].size(), 2U);
    EXPECT_EQ(served["events"][0]["type"], "entered");
    EXPECT_EQ(json["served"][1]["failure"], "open store: no space");
}

} // namespace
} // namespace shale::daemon
