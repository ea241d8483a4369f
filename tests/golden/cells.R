# Golden values for tests/evaluation from R: rms (recalibration), pROC (AUROC), clubSandwich (cluster-robust variance).
# Run: Rscript tests/golden/cells.R > tests/golden/cells.json
suppressMessages({library(rms); library(pROC); library(clubSandwich); library(jsonlite)})
set.seed(16)
n <- 14; size <- c(3, 8, 40, 12, 25, 9, 17, 30, 5, 11, 60, 22, 14, 6)
subject <- rep(seq_len(n), size); ill <- rep(as.integer(seq_len(n) %% 2), size)
score <- rnorm(sum(size)) + rnorm(n, 0, 0.8)[subject] + 1.2 * ill
p <- round(plogis(1.6 * score - 0.7), 6); right <- as.integer((p > 0.5) == ill)
weight <- 1 / size[subject]
x <- qlogis(p)
fit <- function(w) suppressWarnings(c(
  slope = unname(coef(glm(ill ~ x, family = binomial, weights = w, control = list(epsilon = 1e-12)))[2]),
  intercept = unname(coef(glm(ill ~ 1 + offset(x), family = binomial, weights = w, control = list(epsilon = 1e-12)))[1]),
  observed_expected = sum(w * ill) / sum(w * p),
  brier = sum(w * (p - ill)^2) / sum(w),
  ipa = 1 - sum(w * (p - ill)^2) / sum(w) / (weighted.mean(ill, w) * (1 - weighted.mean(ill, w)))))
val <- val.prob(p, ill, pl = FALSE)
# A restricted cubic spline of four knots at the 5, 35, 65 and 95 % quantiles
k <- quantile(x, c(.05, .35, .65, .95), type = 7)
smooth <- lrm(ill ~ rcs(x, k), tol = 1e-12, eps = 1e-10, maxit = 100)
grid <- c(0.05, 0.2, 0.5, 0.8, 0.95)
smoothed <- predict(smooth, data.frame(x = qlogis(grid)), type = "fitted")
# Share right: cluster-robust variance CR3, which the jackknife is after the factor (G - 1) / G; Satterthwaite's t
robust <- function(w) {
  model <- lm(right ~ 1, weights = w)
  se <- sqrt(diag(vcovCR(model, cluster = subject, type = "CR3")))
  c(value = unname(coef(model)), se = unname(se))
}
nb <- function(t) mean(p >= t & ill == 1) - mean(p >= t & ill == 0) * t / (1 - t)
cat(toJSON(list(
  subject = subject, label = ill, probability = p,
  cells = as.list(fit(rep(1, length(p)))), alike = as.list(fit(weight)),
  rms = list(slope = unname(val["Slope"]), brier = unname(val["Brier"]), auroc = unname(val["C (ROC)"])),
  smooth = list(grid = grid, value = unname(smoothed)),
  auroc = as.numeric(auc(ill, p, quiet = TRUE, direction = "<")),
  delong = sqrt(var(roc(ill, p, quiet = TRUE, direction = "<"))),
  accuracy = list(cells = as.list(robust(rep(1, length(p)))), alike = as.list(robust(weight))),
  benefit = list(grid = grid, value = sapply(grid, nb)),
  versions = list(R = R.version.string, rms = as.character(packageVersion("rms")),
                  pROC = as.character(packageVersion("pROC")), clubSandwich = as.character(packageVersion("clubSandwich")))
), digits = 10, auto_unbox = TRUE), "\n")
