-- A thousand sites with 1 to 12 of 40 apps each. Ids follow from numbers by the rule of `make demo`, so that the same requests
-- work in both.
create function pg_temp.id(kind text, number bigint) returns uuid language sql as $$
    select (substr(hash, 1, 8) || '-' || substr(hash, 9, 4) || '-8' || substr(hash, 14, 3) || '-a' || substr(hash, 18, 3)
            || '-' || substr(hash, 21, 12))::uuid
      from encode(sha256(convert_to(kind || '/' || number, 'UTF8')), 'hex') as hash
$$;

insert into public.meta_site
       (site_id, owner_id, version, name, published, premium, locale, created_at, updated_at, installed_apps)
select pg_temp.id('site', site), pg_temp.id('owner', site / 3), 1, 'Site ' || site, true, site % 4 = 0, 'en', now(), now(),
       (select jsonb_agg(jsonb_build_object(
                   'appDefId', pg_temp.id('app', app), 'instanceId', pg_temp.id('instance', site * 40 + app),
                   'version', '1.0.0', 'status', 'INSTALLED', 'installedAt', '2025-01-01T00:00:00Z') order by app)
          from generate_series(0, 39) as app
         -- App 0 is on every site, app 39 on one in forty.
         where site % (app + 1) = 0 and app < 12 + site % 28)
  from generate_series(0, 999) as site;
