// How the tiers of a store are shown.
#pragma once

#include <string>

#include "client/client.h"
#include "nlohmann/json.hpp"

namespace varve::varvectl {

nlohmann::json TiersJson(const client::StoreStatus& status);
std::string TierTable(const client::StoreStatus& status);
// Of the nvme tier, what the table leaves out: its directories.
std::string TierDetails(const client::StoreStatus& status);

}  // namespace varve::varvectl
