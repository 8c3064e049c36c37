-- Keeps the demo's sites changing: twice a second one site gets a new version of its first app, until the container stops.
update public.meta_site
   set version = version + 1, updated_at = now(),
       installed_apps = jsonb_set(installed_apps, '{0,version}', to_jsonb(format('2.%s.0', version)))
 where site_id = (select site_id from public.meta_site offset floor(random() * 1000)::bigint limit 1)
\watch 0.5
