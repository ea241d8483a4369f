# What R says about the tables of survival_tables.py. Called by make_survival_golden.py:
#   Rscript survival_golden.R FOLDER_OF_CSV OUT.json
# Packages (Debian): r-cran-survival, -cmprsk, -rms, -riskregression, -pec, -geepack, -jsonlite.
suppressMessages({library(survival); library(cmprsk); library(rms); library(riskRegression); library(pec)
  library(geepack); library(jsonlite)})

groups_of <- function(d) sort(unique(d$group))
keep_global <- function(d) assign("d", d, envir = .GlobalEnv)  # pec and pseudo look for their data there
zvalue <- function(m) unname(as.list(as.data.frame(t(m))))

logrank <- function(d) {
  any <- as.integer(d$state > 0)
  one <- function(rho) {
    s <- survdiff(Surv(d$time, any) ~ d$group, rho = rho)
    places <- seq_along(s$obs)
    u <- sum(places * (s$obs - s$exp))
    list(chisq = s$chisq, df = length(s$n) - 1, trend = u^2 / drop(places %*% s$var %*% places))
  }
  list(rho0 = one(0), rho1 = one(1))
}

surv_of <- function(d, event) {
  if ("entry" %in% names(d)) Surv(d$entry, d$time, event) else Surv(d$time, event)
}

curves <- function(d, horizons) {
  lapply(groups_of(d), function(g) {
    part <- d[d$group == g, ]
    y <- surv_of(part, as.integer(part$state > 0))
    f <- survfit(y ~ 1, conf.type = "log-log")
    q <- quantile(f, c(.25, .5, .75))
    s <- summary(f, times = horizons, extend = TRUE)
    m <- summary(f, rmean = horizons[2])$table
    m2 <- survival:::survmean(f, rmean = horizons[2])$matrix
    list(quantile = unname(q$quantile), lower = unname(q$lower), upper = unname(q$upper),
         surv = s$surv, surv_lower = s$lower, surv_upper = s$upper,
         rmean = unname(m2["rmean"]), rmean_se = unname(m2["se(rmean)"]))
  })
}

cox <- function(d, horizons) {
  d$y <- surv_of(d, as.integer(d$state == 1))
  d$g <- factor(d$group)
  f <- coxph(y ~ g + x + z, d, control = coxph.control(eps = 1e-12, toler.chol = 1e-13, iter.max = 50))
  patient <- data.frame(g = factor(1, levels(d$g)), x = mean(d$x), z = 1)
  s <- summary(survfit(f, patient, conf.type = "log-log"), times = horizons, extend = TRUE)
  zph <- function(how) {
    t <- cox.zph(f, transform = how)$table
    list(chisq = unname(t[, 1]), df = unname(t[, 2]))
  }
  strata <- coxph(y ~ strata(g) + x + z, d, control = coxph.control(eps = 1e-12, toler.chol = 1e-13))
  zs <- cox.zph(strata)$table
  out <- list(coef = unname(coef(f)), se = unname(sqrt(diag(vcov(f)))), loglik = f$loglik,
    zph_km = zph("km"), zph_rank = zph("rank"), zph_identity = zph("identity"),
    zph_strata = list(chisq = unname(zs[, 1]), df = unname(zs[, 2])),
    surv = s$surv, surv_lower = s$lower, surv_upper = s$upper,
    score = f$score,
    harrell = unname(concordance(f)$concordance))
  if (!"entry" %in% names(d)) out$uno <- unname(concordance(f, timewt = "n/G2")$concordance)
  if (!"entry" %in% names(d) && length(unique(d$x)) > 20) {
    dd <- datadist(d); options(datadist = dd)
    assign("dd", dd, envir = .GlobalEnv); options(datadist = "dd")
    k <- unname(quantile(d$x, c(.05, .35, .65, .95)))
    r <- cph(Surv(time, state == 1) ~ g + rcs(x, k) + z, d, eps = 1e-11)
    a <- anova(r)
    out$rcs <- list(knots = k, coef = unname(coef(r)), se = unname(sqrt(diag(vcov(r)))),
                    nonlinear = unname(a[" Nonlinear", "Chi-Square"]), x = unname(a["x", "Chi-Square"]))
  }
  out
}

smooth_curves <- function(d) {
  d$event <- as.integer(d$state == 1)
  d$g <- factor(d$group)
  lapply(c(weibull = "weibull", lognormal = "lognormal", loglogistic = "loglogistic"), function(family) {
    f <- survreg(Surv(time, event) ~ g + x + z, d, dist = family,
                 control = survreg.control(rel.tolerance = 1e-14, maxiter = 200))
    list(coef = unname(coef(f)), scale = f$scale, loglik = f$loglik[2], se = unname(sqrt(diag(vcov(f)))))
  })
}

competing <- function(d, horizons) {
  out <- list()
  if (!"entry" %in% names(d)) {
    ci <- cuminc(d$time, d$state, d$group)
    t <- timepoints(ci, horizons)
    out$gray <- unname(ci$Tests[, "stat"])
    out$incidence <- zvalue(t$est)
    x <- model.matrix(~ factor(group) + x + z, d)[, -1]
    f <- crr(d$time, d$state, x, gtol = 1e-12)
    out$crr <- list(coef = unname(f$coef), se = unname(sqrt(diag(f$var))))
    g <- coxph(Surv(time, state == 1) ~ factor(group) + x + z, d)
    risk <- d$risk
    keep_global(d)
    h <- pec::cindex(list(m = matrix(risk, ncol = 1)), Hist(time, state) ~ 1, d, eval.times = horizons[2],
                     cause = 1, verbose = FALSE)
    out$cindex <- unname(h$AppCindex$m)
  }
  d$f <- factor(d$state, 0:max(d$state))
  d$id <- seq_len(nrow(d))
  d$g <- factor(d$group)
  keep_global(d)
  lost <- lapply(groups_of(d), function(k) {
    part <- d[d$group == k, ]
    y <- if ("entry" %in% names(d)) Surv(part$entry, part$time, part$f) else Surv(part$time, part$f)
    f <- survfit(y ~ 1, id = part$id, influence = TRUE)
    m <- summary(f, rmean = horizons[2])$table
    list(rmean = unname(m[, "rmean"]), se = unname(m[, "se(rmean)"]))
  })
  out$lost <- lost
  fg <- if ("entry" %in% names(d)) finegray(Surv(entry, time, f) ~ ., d, etype = "1", id = id) else
    finegray(Surv(time, f) ~ ., d, etype = "1", id = id)
  full <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g + x + z, fg, weights = fgwt, ties = "breslow",
                control = coxph.control(eps = 1e-12, toler.chol = 1e-13))
  test <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g, fg, weights = fgwt, ties = "breslow")
  robust <- coxph(Surv(fgstart, fgstop, fgstatus) ~ g + x + z, fg, weights = fgwt, ties = "breslow", cluster = id,
                  control = coxph.control(eps = 1e-12, toler.chol = 1e-13))
  out$finegray <- list(coef = unname(coef(full)), score = test$score, robust_se = unname(sqrt(diag(vcov(robust)))))
  out
}

calibrated <- function(d, horizon) {
  d$f <- if (max(d$state) > 1) factor(d$state, 0:max(d$state)) else as.integer(d$state > 0)
  d$id <- seq_len(nrow(d))
  keep_global(d)
  if (max(d$state) > 1) {
    fit <- survfit(Surv(time, f) ~ 1, d, id = id)
    p <- pseudo(fit, times = horizon)[, 2]
  } else {
    fit <- survfit(Surv(time, f) ~ 1, d)
    p <- 1 - drop(pseudo(fit, times = horizon))
  }
  d$p <- p
  d$cll <- log(-log(1 - d$risk))
  how <- list(mean.link = "cloglog", corstr = "independence", scale.fix = TRUE)
  fit <- function(formula) geese(formula, id = d$id, data = d, mean.link = "cloglog", corstr = "independence",
    scale.fix = TRUE, control = geese.control(epsilon = 1e-10, maxit = 100))
  large <- fit(p ~ offset(cll))
  slope <- fit(p ~ offset(cll) + cll)
  k <- unname(quantile(d$cll, c(.1, .5, .9)))
  smooth <- NULL
  if (length(unique(k)) == 3) {
    b <- unclass(rcspline.eval(d$cll, k, inclx = TRUE))
    d$b1 <- b[, 1]; d$b2 <- b[, 2]
    g <- fit(p ~ b1 + b2)
    at <- rcspline.eval(log(-log(1 - c(.3, .5, .7))), k, inclx = TRUE)
    smooth <- 1 - exp(-exp(drop(cbind(1, unclass(at)) %*% g$beta)))
  }
  part <- function(f) list(coef = unname(f$beta), se = unname(sqrt(diag(f$vbeta))))
  s <- Score(list(m = d$risk), if (max(d$state) > 1) Hist(time, state) ~ 1 else Surv(time, state) ~ 1, d,
             times = horizon, cause = 1, metrics = c("auc", "brier"), summary = "ipa", conf.int = FALSE, null.model = TRUE)
  b <- as.data.frame(s$Brier$score)
  net <- sapply(c(.2, .35, .5), function(cut) {
    above <- d[d$risk >= cut, ]
    if (nrow(above) == 0) return(0)
    if (max(d$state) > 1) {
      f <- survfit(Surv(time, f) ~ 1, above, id = id)
      i <- summary(f, times = horizon, extend = TRUE)$pstate[2]
    } else {
      i <- 1 - summary(survfit(Surv(time, f) ~ 1, above), times = horizon, extend = TRUE)$surv
    }
    nrow(above) / nrow(d) * (i - (1 - i) * cut / (1 - cut))
  })
  list(pseudo = unname(p[1:20]), smooth = unname(smooth), large = part(large), slope = part(slope),
       brier = b$Brier[b$model == "m"], ipa = b$IPA[b$model == "m"],
       auc = as.data.frame(s$AUC$score)$AUC[1], net_benefit = net)
}

said <- function(path) {
  d <- read.csv(path)
  horizons <- unname(quantile(d$time, c(.25, .5, .75), type = 3))
  out <- list(patients = nrow(d), horizons = horizons, curves = curves(d, horizons))
  late <- "entry" %in% names(d)
  if (!late) out$logrank <- logrank(d)
  if ("x" %in% names(d)) out$cox <- cox(d, horizons)
  if ("x" %in% names(d) && !late && min(d$time) > 0) out$smooth_curves <- smooth_curves(d)
  if (max(d$state) > 1) out$competing <- competing(d, horizons)
  if ("risk" %in% names(d) && !late) out$calibrated <- calibrated(d, horizons[2])
  out
}

arguments <- commandArgs(TRUE)
files <- sort(list.files(arguments[1], pattern = "^table-.*csv$", full.names = TRUE))
tables <- lapply(files, function(path) { cat(path, "\n"); said(path) })
names(tables) <- sub("^table-(.*)\\.csv$", "\\1", basename(files))
random <- lapply(sort(list.files(arguments[1], pattern = "^random-.*csv$", full.names = TRUE)),
                 function(path) { r <- logrank(read.csv(path)); c(r$rho0$chisq, r$rho0$trend, r$rho1$chisq, r$rho1$trend) })
packages <- c("survival", "cmprsk", "rms", "riskRegression", "pec", "geepack")
versions <- as.list(sapply(packages, function(p) as.character(packageVersion(p))))
write_json(list(R = R.version.string, packages = versions, tables = tables, random = random), arguments[2],
           digits = 15, auto_unbox = TRUE, na = "null", null = "null")
