// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "doctor/report.h"

namespace shale::doctor {

std::string report_json(const probe::Facts &facts, const Diagnosis &diagnosis) {
    using Json = nlohmann::ordered_json;
    Json out{{"hostname", facts.kernel.hostname},
             {"host_root", facts.host_root},
             {"kernel", facts.kernel.release},
             {"taken_s", facts.taken_s},
             {"checks", diagnosis.checks}};
    out["findings"] = Json::array();
    for (const auto &[check, finding] : diagnosis.findings)
        out["findings"].push_back({{"check", check->id},
                                   {"severity", name_of(finding.severity)},
                                   {"subject", finding.subject},
                                   {"summary", finding.summary},
                                   {"evidence", finding.evidence},
                                   {"why", check->why},
                                   {"remedy", check->remedy},
                                   {"commands", finding.commands},
                                   {"risk", check->risk},
                                   {"undo", check->undo}});
    out["unable"] = Json::array();
    for (const auto &[check, why] : diagnosis.unable)
        out["unable"].push_back({{"check", check->id}, {"why", why}});
    out["unread"] = diagnosis.unread;
    return out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

} // namespace shale::doctor
